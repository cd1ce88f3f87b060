"""`hela-store compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hela_store.evaluation.config import METRICS

from .options import json_option, store_option
from .output import bars, echo_json, echo_table, note

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.compare import Difference

COLUMNS = ("prompt", "cells", "n", "first", "this", "mean", "95 % from", "to", "median", "better", "worse", "verdict")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--metric", type=click.Choice(METRICS), default="iou", show_default=True, help="What is compared.")
@store_option
@json_option
def compare(store: Store, runs: tuple[str, ...], metric: str, as_json: bool) -> None:
    """Compare runs with the first, on the same prompts and cells; A1,A2,A3 are the training seeds of one."""
    import hela_store as hs

    if len(runs) < 2:
        raise click.UsageError("give two runs or more, such as `hela-store compare RUN RUN`")
    found = hs.compare(store, runs, metric=metric, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    for variant in dict.fromkeys(row.variant for row in found.rows):
        click.echo(f"{metric} of {variant} less that of {found.first}")
        echo_table(COLUMNS, [_line(row) for row in found.rows if row.variant == variant])
    for text in found.notes:
        note(f"note: {text}")


def _line(row: Difference) -> list[str | int | float]:
    what = f"{row.prompt}, {row.subset}" if row.subset != "all" else row.prompt
    interval = row.per_cell
    scores = [row.mean_a, row.mean_b, row.mean, interval.low, interval.high, row.median, row.better, row.worse]
    return [what, row.cells, row.n, *scores, row.word]
