"""`hela-store export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import cache_dir, json_option, store_option
from .output import bars, echo_json, relative

if TYPE_CHECKING:
    from hela_store import Store


@click.group()
def export() -> None:
    """Write what other tools read."""


@export.command()
@store_option
@click.argument("run", required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help=".pth; nano: .safetensors")
@json_option
def checkpoint(store: Store, run: str | None, out: Path, as_json: bool) -> None:
    """Write encoder and the tuned decoder of RUN (the default run) as one SAM checkpoint."""
    from hela_store.export.checkpoint import export_checkpoint

    found = export_checkpoint(store, run, out, cache_dir=cache_dir(), progress=bars)
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo(f"{relative(found.path)}: {found.architecture} with the decoder of {found.run}")
