"""`hela-store bench`."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .options import device_option, json_option, store_option
from .output import bars, echo_facts, echo_json, echo_table

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.recipe.recipe import Architecture


@click.group()
def bench() -> None:
    """Time this machine: ours against the named peers, interleaved in one run."""


@bench.command()
@store_option
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True, help="Optimiser steps a round.")
@click.option("--cells", type=click.IntRange(1), default=16, show_default=True, help="Most cells a step.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Times each pair is timed.")
@click.option(
    "--encoder",
    type=click.Choice(["nano", "vit_b", "vit_l", "vit_h"]),
    default="vit_b",
    show_default=True,
    help="Stock encoder in the loop, random weights.",
)
@click.option("--encoder-steps", type=click.IntRange(0), default=2, show_default=True, help="Steps with it; 0: none.")
@click.option("--predictions", type=click.IntRange(1), default=64, show_default=True, help="Cells to predict.")
@click.option("--workers", type=click.IntRange(0), help="Processes that load batches. [default: as finetune]")
@device_option
@json_option
def train(store: Store, as_json: bool, **choices: Any) -> None:
    """Tuning against memory and against the encoder in the loop; evaluation against SamPredictor."""
    from hela_store.bench.train import TrainBenchConfig, bench_train

    found = bench_train(store, TrainBenchConfig(**choices), progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    columns = list(found["pairs"][0])
    echo_table(columns, [list(pair.values()) for pair in found["pairs"]])


@bench.command()
@click.option("--cells", type=click.IntRange(1, 130), default=130, show_default=True, help="Nuclei a frame.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="How often each way is timed.")
@json_option
def metrics(cells: int, repeats: int, as_json: bool) -> None:
    """Per-cell metrics beside MONAI, SEG and DET beside py-ctcmetrics, on the same drawn masks."""
    from hela_store.bench.metrics import bench_metrics

    found = bench_metrics(cells=cells, repeats=repeats, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    rows = [
        [r.what, r.who, *(None if t is None else 1e3 * t for t in (r.median, r.best)), r.worst_difference]
        for r in found.rows
    ]
    echo_table([f"{found.cells} cells", "who", "median, ms a frame", "best", "largest difference"], rows)


@bench.command()
@click.option("--encoder", type=click.Choice(["nano", "vit_b", "vit_l", "vit_h"]), default="nano", show_default=True)
@click.option("--tile", type=int, default=512, show_default=True, metavar="PX")
@click.option("--views", type=int, default=8, show_default=True, metavar="N")
@click.option("--cores", type=int, default=1, show_default=True, metavar="N", help="Threads of torch.")
@json_option
def augment(encoder: Architecture, tile: int, views: int, cores: int, as_json: bool) -> None:
    """Time the making of augmented views against their encoding, on the CPU."""
    from hela_store.bench.augment import bench_augment

    found = bench_augment(encoder, tile=tile, views=views, cores=cores, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    parts = ("draw", "image", "labels", "encode")
    echo_table(["part", "ms a view"], [[name, getattr(found, name) * 1000] for name in parts])
    click.echo(f"{found.share:.1%} of what a {found.tile}-px view costs with {encoder} on {cores} thread(s)")


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


@bench.command()
@click.option("--encoder", default="nano", show_default=True, help="nano; vit_t, vit_b, vit_l, vit_h: random weights.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Timings of each.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Views at once, ours.")
@click.option("--compile", "compiled", is_flag=True, help="Ours through torch.compile, too.")
@device_option
@json_option
def encode(encoder: str, as_json: bool, **choices: Any) -> None:
    """Time SAM's encoder as its authors run it, in bfloat16, and ours; parity, share of the matrix rate."""
    from hela_store.bench.encode import bench_encode

    _show(bench_encode(encoder, **choices, progress=bars), as_json)


@bench.command()
@click.option("--views", type=click.IntRange(2), default=16, show_default=True, metavar="N", help="Drawn frames.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Timings of each.")
@click.option("--codec", default="zstd", show_default=True, help="As in the recipe.")
@device_option
@json_option
def embed(views: int, rounds: int, codec: str, device: str, as_json: bool) -> None:
    """Time the whole of embed against encoding alone, with nano."""
    from hela_store.bench.embed import bench_embed

    _show(bench_embed(views=views, rounds=rounds, codec=codec, device=device, progress=bars), as_json)


@bench.command()
@store_option
@click.option("--views", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="Embeddings copied.")
@click.option("--reads", type=click.IntRange(1), default=256, show_default=True, metavar="N", help="Reads of each way.")
@click.option("--cold", is_flag=True, help="Drop the page cache before each read.")
@json_option
def read(store: Store, views: int, reads: int, cold: bool, as_json: bool) -> None:
    """Time random reads of embeddings into torch tensors, ours against np.memmap and h5py."""
    from hela_store.bench.read import bench_read

    _show(bench_read(store, views=views, reads=reads, cold=cold, progress=bars), as_json)


@bench.command()
@store_option
@click.option(
    "--delay", "delays", multiple=True, type=click.FloatRange(0), default=(1, 5, 20), show_default=True, help="ms."
)
@click.option("--steps", type=click.IntRange(2), default=40, show_default=True, help="Optimiser steps of each way.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that load batches.")
@json_option
def bucket(store: Store, delays: tuple[float, ...], steps: int, workers: int, as_json: bool) -> None:
    """Time tuning from a local S3 server with added delay, with and without a cache, against the local disk."""
    from hela_store.bench.bucket import bench_bucket

    def connect(address: str) -> None:
        os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

    _show(bench_bucket(store, connect, delays=delays, steps=steps, workers=workers, progress=bars), as_json)


@bench.command()
@store_option
@click.option("--views", type=click.IntRange(1), default=16, show_default=True, metavar="N", help="Views decoded.")
@click.option("--prompt", default="box", show_default=True, help="Kind of the prompts.")
@click.option("--split", default="val", show_default=True, help="Block of the views.")
@json_option
def codec(store: Store, views: int, prompt: str, split: str, as_json: bool) -> None:
    """Measure size, speed, error and change of per-cell IoU of every codec, on a store's own embeddings."""
    from hela_store.bench.codec import bench_codec

    _show(bench_codec(store, views=views, prompt=prompt, split=split, progress=bars), as_json)


@bench.command()
@click.option(
    "--views",
    multiple=True,
    type=click.IntRange(4),
    default=(1_000, 10_000, 100_000, 1_000_000),
    show_default=True,
    metavar="N",
    help="Size of a simulated store; may be given several times.",
)
@click.option(
    "--rows",
    "metric_rows",
    type=click.IntRange(0),
    default=10_000_000,
    show_default=True,
    metavar="N",
    help="Rows of cell metrics, beside pandas and SQLite; 0: none.",
)
@json_option
def scale(views: tuple[int, ...], metric_rows: int, as_json: bool) -> None:
    """Open, plan, info, random read and append of stores of up to a million views; queries over many rows."""
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


@bench.command()
@click.option("--encoder", default="vit_b", show_default=True, help="nano, or vit_b, vit_l, vit_h; random weights.")
@click.option("--cut", "cuts", type=int, multiple=True, metavar="K", help="[default: 0, half, all but two blocks]")
@click.option("--rank", type=int, default=4, show_default=True, metavar="N", help="Of the adapters.")
@click.option("--conv", is_flag=True, help="Conv-LoRA.")
@click.option("--linear", is_flag=True, help="Adapt all linear layers.")
@click.option("--full", is_flag=True, help="The blocks themselves instead of adapters.")
@click.option("--cells", type=click.IntRange(1), default=16, show_default=True, metavar="N", help="Box prompts a step.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="That are timed.")
@device_option
@json_option
def adapt(as_json: bool, cuts: tuple[int, ...], **choices: Any) -> None:
    """Time a training step and its memory: encoder adapters from several cuts on, and the decoder alone."""
    from hela_store.bench.adapt import AdaptBenchConfig, bench_adapt

    found = bench_adapt(AdaptBenchConfig(cuts=cuts or None, **choices), progress=bars).to_json()
    if as_json:
        echo_json(found)
        return
    echo_table([name.replace("_", " ") for name in found["rows"][0]], [list(row.values()) for row in found["rows"]])
