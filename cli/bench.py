"""`hela-store bench`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .options import device_option, json_option, store_option
from .output import bars, echo_facts, echo_json, echo_table

if TYPE_CHECKING:
    from hela_store import Store


@click.group()
def bench() -> None:
    """Time this machine: ours against the named peers, interleaved in one run."""


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
@click.option("--encoder", default="nano", show_default=True, help="nano, or vit_b, vit_l, vit_h with random weights.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Timings of each.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Views at once, ours.")
@device_option
@json_option
def encode(encoder: str, rounds: int, batch: int, device: str, as_json: bool) -> None:
    """Time SAM's encoder as its authors run it, in bfloat16, and ours; parity, share of the matrix rate."""
    from hela_store.bench.encode import bench_encode

    _show(bench_encode(encoder, rounds=rounds, batch=batch, device=device, progress=bars), as_json)


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
@click.option("--views", type=click.IntRange(1), default=16, show_default=True, metavar="N", help="Views decoded.")
@click.option("--prompt", default="box", show_default=True, help="Kind of the prompts.")
@click.option("--split", default="val", show_default=True, help="Block of the views.")
@json_option
def codec(store: Store, views: int, prompt: str, split: str, as_json: bool) -> None:
    """Measure size, speed, error and change of per-cell IoU of every codec, on a store's own embeddings."""
    from hela_store.bench.codec import bench_codec

    _show(bench_codec(store, views=views, prompt=prompt, split=split, progress=bars), as_json)
