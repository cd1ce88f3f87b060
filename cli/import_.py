"""`hela-store import`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import verdicts
from .help import Command, Group
from .options import cache_dir, device_option, json_option, store_option
from .output import bars, echo_facts, echo_json

if TYPE_CHECKING:
    from hela_store import Store


@click.group(name="import", cls=Group)
def import_() -> None:
    """Import what other tools computed."""


@import_.command(
    name="micro-sam",
    cls=Command,
    positional={
        "embeddings": "File of micro-sam's precompute_image_embeddings.",
        "what": "Frame or sequence of the store whose embeddings these are, such as 01/t012 or 01.",
    },
    examples=("hela-store import micro-sam embeddings.zarr 01 -s cells",),
)
@click.argument("embeddings", type=click.Path(path_type=Path), metavar="EMBEDDINGS.zarr")
@click.argument("what", metavar="FRAME|SEQUENCE")
@store_option
@device_option
@json_option
def micro_sam(store: Store, embeddings: Path, what: str, device: str, as_json: bool) -> None:
    """Import embeddings of whole frames that micro-sam computed.

    They get an encoder key of their own.
    """
    from hela_store.exchange.micro_sam_import import import_micro_sam

    found = import_micro_sam(store, embeddings, what, device=device, cache_dir=cache_dir(), progress=bars)
    if as_json:
        echo_json(asdict(found))
        return
    done = f"{found.views} in {what}, {found.done_before} done before, {found.done_now} now"
    line = f'to read these in every command, set under [encoder] in store.toml source = "{found.source}"'
    rows = [("encoder key", found.key), ("views", done), ("source", line)]
    echo_facts(rows if not found.left else [*rows, ("left", f"{found.left} views of other frames of the store")])
    verdicts.next_step("finetune")
