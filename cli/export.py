"""`hela-store export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hela_store.base.text import counted
from hela_store.prompts.kinds import PROMPT_KINDS

from . import verdicts
from .help import RUN, Command, Group
from .options import F, cache_dir, json_option, store_option
from .output import bars, echo_json, echo_sequences, note, relative, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.exchange.checkpoint import CheckpointFormat


def masks_options(command: F) -> F:
    """Give a command ``--prompt`` and ``--prompt-seed``: which of a run's masks it is about."""
    kind = click.option(
        "--prompt",
        type=click.Choice(PROMPT_KINDS),
        metavar="KIND",
        help="Export the masks of this prompt, such as box or point; needed if the run has several kinds.",
    )
    draw = click.option(
        "--prompt-seed", type=int, metavar="N", help="Export the masks of this prompt seed. [default: the first]"
    )
    return kind(draw(command))


@click.group(cls=Group)
def export() -> None:
    """Write files that other tools read."""


@export.command(
    cls=Command,
    positional={"run": f"Fine-tuning: {RUN}. Without RUN the default run is written."},
    examples=("hela-store export checkpoint -s fluo --out tuned.safetensors",),
)
@store_option
@click.argument("run", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Write this file: .pth, or .safetensors for nano; a folder for Hugging Face.",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["sam", "huggingface"]),
    default="sam",
    show_default=True,
    help="Write segment-anything's names, or a folder that transformers' SamModel opens.",
)
@json_option
def checkpoint(store: Store, run: str | None, out: Path, layout: CheckpointFormat, as_json: bool) -> None:
    """Write encoder and fine-tuned decoder as a SAM checkpoint."""
    from hela_store.exchange.checkpoint import export_checkpoint

    found = export_checkpoint(store, run, out, layout=layout, cache_dir=cache_dir(), progress=bars)
    if found.in_domain:
        note(f"note: {found.in_domain}")
    if as_json:
        echo_json(found.to_json())
    else:
        say(f"{relative(found.path)}: {found.architecture} with what {found.run} fine-tuned")
        verdicts.new_store(found.architecture, relative(found.path))


@export.command(
    cls=Command,
    positional={"run": f"Evaluation: {RUN}."},
    examples=("hela-store export ctc -s fluo RUN --prompt box --out results",),
)
@click.argument("run", metavar="RUN")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write <sequence>_RES into this folder.",
)
@masks_options
@store_option
@json_option
def ctc(store: Store, run: str, out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool) -> None:
    """Write a run's masks as a Cell Tracking Challenge result. It also prints their scores."""
    from hela_store.exchange.ctc import export_ctc

    result = export_ctc(store, run, out, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(result.to_json())
        return
    folders = ", ".join(relative(path) for path in result.folders.values())
    sizes = f"{counted(result.frames, 'frame')} with {counted(result.objects, 'object')}"
    say(f"run {result.run}: {sizes} in {folders}")
    for text in result.notes:
        note(f"note: {text}")
    if result.scores is not None:
        echo_sequences(result.scores)
    verdicts.next_step(f"report {result.run}")


@export.command(
    cls=Command,
    positional={"run": f"Evaluation whose scores are added: {RUN}."},
    examples=("hela-store export anndata -s fluo RUN --prompt box --out cells.h5ad",),
)
@click.argument("run", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Write this file, which ends in .h5ad.",
)
@masks_options
@store_option
@json_option
def anndata(
    store: Store, run: str | None, out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool
) -> None:
    """Write labelled cells as AnnData. It holds their vectors, properties and scores."""
    from hela_store.exchange.anndata import export_anndata

    found = export_anndata(store, out, run, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(found.to_json())
    else:
        say(f"{relative(found.path)}: {found.cells} cells, vectors of {found.encoder}, {len(found.columns)} columns")
        click.echo(f"Next: open it with anndata.read_h5ad({relative(found.path)!r})")


@export.command(
    cls=Command,
    positional={"run": f"Evaluation: {RUN}."},
    examples=("hela-store export coco -s fluo RUN --prompt box --out masks.json",),
)
@click.argument("run", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Write this JSON file.")
@masks_options
@store_option
@json_option
def coco(store: Store, run: str, out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool) -> None:
    """Write a run's masks as COCO.

    It writes a data set, results for COCO.loadRes, and the labels as their ground truth.
    """
    from hela_store.exchange.coco import export_coco

    result = export_coco(store, run, out, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(result.to_json())
    else:
        left = f"; {result.empty} empty masks left out" if result.empty else ""
        sizes = f"{counted(result.annotations, 'mask')} of {counted(result.images, 'frame')}"
        say(f"{relative(out)}: {sizes} of {result.run}{left}")
        of = "no frame has labels, so there is no truth" if result.truth is None else relative(result.truth)
        say(f"for COCO.loadRes: {relative(result.results)}, truth: {of}")
        verdicts.next_step(f"report {result.run}")


@export.command(
    cls=Command,
    positional={"run": f"Fine-tuning: {RUN}. Without RUN the default run is written."},
    examples=("hela-store export onnx -s fluo --out decoder.onnx",),
)
@store_option
@click.argument("run", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Write this file, which ends in .onnx.",
)
@click.option(
    "--window", type=int, metavar="N", help="Read N embedding positions per side around a prompt. [default: as trained]"
)
@json_option
def onnx(store: Store, run: str | None, out: Path, window: int | None, as_json: bool) -> None:
    """Write the fine-tuned decoder as ONNX. The file is checked with onnxruntime."""
    from hela_store.exchange.onnx import export_onnx

    found = export_onnx(store, run, out, window=window)
    if as_json:
        echo_json(found.to_json())
    else:
        apart = f"logits within {found.difference:.1g} of torch's"
        say(f"{relative(found.path)}: decoder of {found.run}, window {found.window}; {apart}")
        click.echo(f"Next: open it with onnxruntime.InferenceSession({relative(found.path)!r})")


@export.command(
    name="ome-zarr",
    cls=Command,
    positional={"runs": f"Evaluations whose masks are added: {RUN}."},
    examples=("hela-store export ome-zarr -s fluo RUN --prompt box --out zarr",),
)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write <sequence>.ome.zarr into this folder.",
)
@masks_options
@store_option
@json_option
def ome_zarr(
    store: Store, runs: tuple[str, ...], out: Path, prompt: str | None, prompt_seed: int | None, as_json: bool
) -> None:
    """Write frames, labels and masks as OME-NGFF 0.5 with pyramids."""
    from hela_store.exchange.ome_zarr import export_ome_zarr

    found = export_ome_zarr(store, runs, out, prompt=prompt, prompt_seed=prompt_seed, progress=bars)
    if as_json:
        echo_json(found.to_json())
    else:
        folders = ", ".join(relative(path) for path in found.images.values())
        say(f"{counted(found.frames, 'frame')} with labels {', '.join(found.labels) or 'of no kind'} in {folders}")
        for run, count in found.without.items():
            note(f"note: run {run} has no masks of {count} of these frames; its label images of them are empty")
        click.echo("Next: drag a folder into napari, which needs its plugin napari-ome-zarr")


@export.command(
    name="micro-sam",
    cls=Command,
    positional={"what": "Frame or sequence, such as 01/t012 or 01."},
    examples=("hela-store export micro-sam 01/t012 -s fluo --out annotate",),
)
@click.argument("what", metavar="FRAME|SEQUENCE")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write embeddings and image into this folder.",
)
@click.option("--tile", type=int, default=0, show_default=True, metavar="N", help="Export this tile of the frame.")
@store_option
@json_option
def micro_sam(store: Store, what: str, out: Path, tile: int, as_json: bool) -> None:
    """Write embeddings that micro-sam's annotators can open."""
    from hela_store.exchange.micro_sam_export import export_micro_sam

    found = export_micro_sam(store, what, out, tile=tile, progress=bars)
    if as_json:
        echo_json(found.to_json())
    else:
        say(f"{relative(found.embeddings)} belongs to {relative(found.image)}.")
        click.echo(f"Next: open both in micro-sam with {found.model_type} and the store's checkpoint")
