"""`hela-store bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import percent

from .help import Command, Group, Several
from .options import F, device_option, json_option, store_option
from .output import bars, echo_facts, echo_json, echo_table
from .threads import COUNTS, WAITS

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.recipe.recipe import Architecture

ENCODERS = click.Choice(["nano", "vit_t", "vit_b", "vit_l", "vit_h"])
THIS_COMMAND = (sys.executable, "-c", "from hela_store_cli.main import main; main()")
"""How a process of this command is started."""


def _number(name: str, default: int, help_text: str, least: int = 1) -> Callable[[F], F]:
    """Return an option for a number of things."""
    return click.option(
        name, type=click.IntRange(least), default=default, show_default=True, metavar="N", help=help_text
    )


@click.group(cls=Group)
def bench() -> None:
    """Measure speed on this machine. Other software is measured in the same run."""


@bench.command(cls=Command, examples=("hela-store bench train -s fluo",))
@store_option
@click.option(
    "--steps", type=click.IntRange(2), default=20, show_default=True, help="Time N optimiser steps per round."
)
@click.option(
    "--cells", type=click.IntRange(1), default=16, show_default=True, help="Train on at most N cells per step."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Repeat every measurement N times."
)
@click.option(
    "--encoder",
    type=ENCODERS,
    default="vit_b",
    show_default=True,
    help="Run this encoder in every step: that of its authors' own package, with random weights.",
)
@click.option(
    "--encoder-steps",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Time N steps with the encoder; 0: none.",
)
@click.option("--predictions", type=click.IntRange(1), default=64, show_default=True, help="Predict N cells.")
@click.option(
    "--workers", type=click.IntRange(0), help="Load batches in N processes. [default: the same as `finetune`]"
)
@device_option
@json_option
def train(store: Store, as_json: bool, **choices: Any) -> None:
    """Time fine-tuning and evaluation, here and without a store.

    Fine-tuning is compared with running the encoder in every step, evaluation with SamPredictor.
    """
    from hela_store.bench.train import TrainBenchConfig, bench_train

    found = bench_train(store, TrainBenchConfig(**choices), progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    columns = list(found["pairs"][0])
    echo_table(columns, [list(pair.values()) for pair in found["pairs"]])


@bench.command(cls=Command, examples=("hela-store bench metrics",))
@click.option(
    "--cells",
    type=click.IntRange(1, 130),
    default=130,
    show_default=True,
    help="Make N artificial nuclei per frame.",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Repeat every measurement N times."
)
@json_option
def metrics(cells: int, repeats: int, as_json: bool) -> None:
    """Time the metrics against MONAI and py-ctcmetrics."""
    from hela_store.bench.metrics import bench_metrics

    found = bench_metrics(cells=cells, repeats=repeats, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    rows = [
        [r.what, r.who, *(None if t is None else 1e3 * t for t in (r.median, r.best)), r.worst_difference]
        for r in found.rows
    ]
    echo_table([f"{found.cells} cells", "who", "median, ms per frame", "best", "largest difference"], rows)


@bench.command(cls=Command, examples=("hela-store bench augment --encoder nano",))
@click.option(
    "--encoder",
    type=ENCODERS,
    default="nano",
    show_default=True,
    help="Time this encoder.",
)
@click.option(
    "--tile", type=int, default=512, show_default=True, metavar="PX", help="Set the edge length of a view, in pixels."
)
@click.option("--views", type=int, default=8, show_default=True, metavar="N", help="Make N views.")
@click.option("--cores", type=int, default=1, show_default=True, metavar="N", help="Use N threads of torch.")
@json_option
def augment(encoder: Architecture, tile: int, views: int, cores: int, as_json: bool) -> None:
    """Time how long views take to augment, and to encode."""
    from hela_store.bench.augment import bench_augment

    found = bench_augment(encoder, tile=tile, views=views, cores=cores, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    parts = ("draw", "image", "labels", "encode")
    echo_table(["part", "ms per view"], [[name, getattr(found, name) * 1000] for name in parts])
    click.echo(f"{percent(found.share)} of what a {found.tile}-px view costs with {encoder} on {cores} thread(s)")


def _show(found: Any, as_json: bool) -> None:
    values = asdict(found)
    if as_json:
        echo_json(values)
        return
    rows = values.pop("rows", ())
    echo_facts([(name.replace("_", " "), str(value)) for name, value in values.items()])
    if rows:
        click.echo()
        echo_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])


@bench.command(cls=Command, examples=("hela-store bench encode --encoder vit_b",))
@click.option(
    "--encoder",
    type=ENCODERS,
    default="nano",
    show_default=True,
    help="Time this encoder; all but nano have random weights.",
)
@_number("--rounds", 3, "Repeat every measurement N times.")
@_number("--batch", 1, "Encode N views together.")
@click.option("--compile", "compiled", is_flag=True, help="Also time our encoder through torch.compile.")
@device_option
@json_option
def encode(encoder: str, as_json: bool, **choices: Any) -> None:
    """Time our encoder against the original one.

    It does so in float32 and bfloat16, and compares the values of both.
    """
    from hela_store.bench.encode import bench_encode

    _show(bench_encode(encoder, **choices, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench predict --boxes 32",))
@click.option("--boxes", type=click.IntRange(1, 100), default=64, show_default=True, help="Segment N boxes in a view.")
@_number("--rounds", 3, "Repeat every measurement N times.")
@click.option(
    "--large",
    type=click.IntRange(512),
    default=8000,
    show_default=True,
    help="Measure the memory that an image with this edge takes, in pixels.",
)
@click.option(
    "--large-boxes", type=click.IntRange(1), default=32, show_default=True, help="Segment N boxes in that image."
)
@_number("--frames", 40, "Make vectors of the cells in N synthetic frames of 700 x 1100 pixels.")
@device_option
@json_option
def predict(as_json: bool, **choices: Any) -> None:
    """Time predictions with nano, and measure their memory.

    It times a box against SamPredictor.predict, a whole frame and the vectors of cells, and measures the memory that a
    large image takes.
    """
    from hela_store.bench.predict import bench_predict

    _show(bench_predict(**choices, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench teach --events 200",))
@click.option(
    "--encoder",
    type=click.Choice(("nano", "vit_b")),
    default="nano",
    show_default=True,
    help="Use embeddings and the decoder of this encoder; vit_b has random weights.",
)
@_number("--hovers", 200, "Ask for N masks each time.", least=2)
@click.option(
    "--cells",
    type=click.IntRange(1, 3000),
    default=2000,
    show_default=True,
    metavar="N",
    help="Accept N cells in the frame.",
)
@_number("--events", 1000, "Measure the memory over N edits.", least=2)
@device_option
@json_option
def teach(as_json: bool, **choices: Any) -> None:
    """Time how long the page of `hela-store teach` makes you wait.

    It measures the wait for a mask, an edit and the next cell. Masks are timed three times in the same
    frame: as it is, beside a fine-tuning, and with many accepted cells. The defaults take one to two minutes on two
    free cores.
    """
    from hela_store.bench.teach import bench_teach

    _show(bench_teach(**choices, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench embed --views 8",))
@_number("--views", 16, "Embed N synthetic frames.", least=2)
@_number("--rounds", 3, "Repeat every measurement N times.")
@click.option("--codec", default="zstd", show_default=True, metavar="NAME", help="Compress with this codec.")
@device_option
@json_option
def embed(views: int, rounds: int, codec: str, device: str, as_json: bool) -> None:
    """Time all of `embed`, and encoding alone, with nano."""
    from hela_store.bench.embed import bench_embed

    _show(bench_embed(views=views, rounds=rounds, codec=codec, device=device, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench busy --competing 0 1",))
@click.option(
    "--competing",
    cls=Several,
    multiple=True,
    type=click.IntRange(0),
    default=(0, 1, 2),
    show_default=True,
    metavar="N",
    help="Time beside these numbers of busy processes, separated by spaces, 0 first.",
)
@_number("--frames", 9, "Embed N synthetic frames.", least=6)
@_number("--steps", 20, "Fine-tune for N steps.", least=2)
@_number("--rounds", 2, "Time each command N times.")
@json_option
def busy(as_json: bool, **choices: Any) -> None:
    """Time commands while other processes are busy.

    Embed, finetune and evaluate are compared with the speed that their fair share of the cores would give.
    """
    from hela_store.bench.busy import BusyBenchConfig, bench_busy

    said = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITS, "HELA_STORE")}
    how: dict[str, Any] = {"command": THIS_COMMAND, "environment": said}
    _show(bench_busy(BusyBenchConfig(**choices), **how, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench read -s fluo --cold",))
@store_option
@_number("--views", 64, "Read from N embeddings.")
@_number("--reads", 256, "Time N reads with each reader.")
@click.option("--cold", is_flag=True, help="Drop the page cache before each read.")
@json_option
def read(store: Store, views: int, reads: int, cold: bool, as_json: bool) -> None:
    """Time random reads of embeddings into torch tensors.

    Our reader is compared with np.memmap and h5py.
    """
    from hela_store.bench.read import bench_read

    _show(bench_read(store, views=views, reads=reads, cold=cold, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench bucket -s fluo --delay 5",))
@store_option
@click.option(
    "--delay",
    "delays",
    cls=Several,
    multiple=True,
    type=click.FloatRange(0),
    default=(1, 5, 20),
    show_default=True,
    help="Add these delays to every request, in milliseconds, separated by spaces.",
)
@click.option(
    "--steps", type=click.IntRange(2), default=40, show_default=True, help="Time N optimiser steps in each case."
)
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Load batches in N processes.")
@json_option
def bucket(store: Store, delays: tuple[float, ...], steps: int, workers: int, as_json: bool) -> None:
    """Time fine-tuning from a bucket against the local disk.

    The bucket is a local S3 server with an added delay, with and without a cache.
    """
    from hela_store.bench.bucket import bench_bucket

    def connect(address: str) -> None:
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

    _show(bench_bucket(store, connect, delays=delays, steps=steps, workers=workers, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench codec -s fluo",))
@store_option
@_number("--views", 16, "Decode N views.")
@click.option("--prompt", default="box", show_default=True, metavar="KIND", help="Use prompts of this kind.")
@click.option(
    "--split", default="val", show_default=True, metavar="NAME", help="Take views of the frames of train, val or test."
)
@json_option
def codec(store: Store, views: int, prompt: str, split: str, as_json: bool) -> None:
    """Measure size, speed and error of every codec.

    It uses the store's own embeddings, and also measures how the IoU of each cell changes.
    """
    from hela_store.bench.codec import bench_codec

    _show(bench_codec(store, views=views, prompt=prompt, split=split, progress=bars), as_json)


@bench.command(cls=Command, examples=("hela-store bench scale --views 1000 --rows 0",))
@click.option(
    "--views",
    cls=Several,
    multiple=True,
    type=click.IntRange(4),
    default=(1_000, 10_000, 100_000, 1_000_000),
    show_default=True,
    metavar="N",
    help="Simulate stores with these numbers of views, separated by spaces.",
)
@click.option(
    "--rows",
    "metric_rows",
    type=click.IntRange(0),
    default=10_000_000,
    show_default=True,
    metavar="N",
    help="Query N rows of cell metrics, against pandas and SQLite; 0: none.",
)
@json_option
def scale(views: tuple[int, ...], metric_rows: int, as_json: bool) -> None:
    """Time work on very large stores.

    It times opening, planning, reading and appending for simulated stores of up to a million views.
    """
    from hela_store.bench.scale import bench_scale

    found = bench_scale(views=views, metric_rows=metric_rows, progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    echo_table(list(found["rows"][0]), [list(row.values()) for row in found["rows"]])
    if found["metrics"] is not None:
        echo_table(["rows a second", "who"], [[rate, who] for who, rate in found["metrics"]["insert"].items()])
        queries = found["metrics"]["queries"]
        columns = ["seconds", *next(iter(queries.values()))]
        echo_table(columns, [[name, *taken.values()] for name, taken in queries.items()])


@bench.command(cls=Command, examples=("hela-store bench adapt --encoder nano --cut 2",))
@click.option(
    "--encoder",
    default="vit_b",
    show_default=True,
    metavar="NAME",
    help="Time nano, nano2, vit_b, vit_l or vit_h, with random weights; vit_t takes no adapters.",
)
@click.option(
    "--cut",
    "cuts",
    cls=Several,
    type=int,
    multiple=True,
    metavar="K",
    help="Adapt the encoder layers after the first K; give several numbers, separated by spaces. "
    "[default: 0, half, all but two, as far as they fit]",
)
@click.option("--rank", type=int, default=4, show_default=True, metavar="N", help="Set the rank of the adapters.")
@click.option("--conv", is_flag=True, help="Use Conv-LoRA adapters.")
@click.option("--linear", is_flag=True, help="Adapt all linear maps of a layer.")
@click.option("--full", is_flag=True, help="Train the layers themselves instead of adapters.")
@_number("--cells", 16, "Give N box prompts per step.")
@_number("--steps", 3, "Time N steps.")
@device_option
@json_option
def adapt(as_json: bool, cuts: tuple[int, ...], **choices: Any) -> None:
    """Time a training step with encoder adapters.

    It also measures the memory, and compares both with training the decoder alone.
    """
    from hela_store.bench.adapt import AdaptBenchConfig, bench_adapt

    found = bench_adapt(AdaptBenchConfig(cuts=cuts or None, **choices), progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    echo_table([name.replace("_", " ") for name in found["rows"][0]], [list(row.values()) for row in found["rows"]])


@bench.command(cls=Command, examples=("hela-store bench pipeline --variants 8",))
@_number("--variants", 4, "Make N variants of each view.")
@click.option("--codec", default="zstd", show_default=True, metavar="NAME", help="Compress with this codec.")
@_number("--batch", 4, "Encode N views together.")
@_number("--readers", 0, "Read and augment in N processes; 0: in a thread.", least=0)
@device_option
@json_option
def pipeline(as_json: bool, **choices: Any) -> None:
    """Time everything around the encoder.

    The encoder is replaced by one that takes no time. So the views per second are an upper limit: a faster GPU would
    wait for reading, augmenting and writing. "busy" comes from a second measurement, with nano's encoder: it is the
    share of the time in which the encoder computes and does not wait.
    """
    from hela_store.bench.pipeline import bench_pipeline

    found = bench_pipeline(**choices, progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    echo_table(
        [f"views/s: {name}" if name in ("read", "write", "together") else name for name in found["rows"][0]],
        [list(row.values()) for row in found["rows"]],
    )
