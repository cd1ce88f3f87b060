"""`hela-store bench`."""

from __future__ import annotations

import click

from .options import json_option
from .output import bars, echo_json, echo_table


@click.group()
def bench() -> None:
    """Time this machine: ours against the named peers, interleaved in one run."""


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
