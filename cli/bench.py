"""`hela-store bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import json_option
from .output import bars, echo_json, echo_table

if TYPE_CHECKING:
    from hela_store.recipe import Architecture


@click.group()
def bench() -> None:
    """Time this machine: ours against the named peers, interleaved in one run."""


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
