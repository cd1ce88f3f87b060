"""`hela-store export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hela_store.types import PROMPT_KINDS

from .options import cache_dir, json_option, store_option
from .output import bars, echo_json, echo_sequences, relative

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


@export.command()
@click.argument("run", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Gets <sequence>_RES.")
@click.option("--prompt", type=click.Choice(PROMPT_KINDS), help="Which prompts, where the run has several kinds.")
@click.option("--prompt-seed", type=int, metavar="N", help="Which draw of them. [default: the first]")
@store_option
@json_option
def ctc(store: Store, run: str, out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool) -> None:
    """Write a run's masks as a result folder of the Cell Tracking Challenge, and score it."""
    from hela_store.export.ctc import export_ctc

    result = export_ctc(store, run, out, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(result.to_json())
        return
    folders = ", ".join(relative(path) for path in result.folders.values())
    click.echo(f"run {result.run}: {result.frames} frames with {result.objects} objects in {folders}")
    if result.scores is not None:
        echo_sequences(result.scores)


@export.command()
@click.argument("run", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="JSON.")
@click.option("--prompt", type=click.Choice(PROMPT_KINDS), help="Which prompts, where the run has several kinds.")
@click.option("--prompt-seed", type=int, metavar="N", help="Which draw of them. [default: the first]")
@store_option
@json_option
def coco(store: Store, run: str, out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool) -> None:
    """Write a run's masks as one COCO file: boxes, run-length codes, scores."""
    from hela_store.export.coco import export_coco

    result = export_coco(store, run, out, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(result.to_json())
    else:
        left = f"; {result.empty} empty masks left out" if result.empty else ""
        click.echo(f"{relative(out)}: {result.annotations} masks of {result.images} frames of {result.run}{left}")
