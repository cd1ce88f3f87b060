"""`hela-store slices`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hela_store.evaluation.config import METRIC_WORDS, METRICS, PARTS

from . import verdicts
from .help import RUN, Command
from .options import json_option, store_option
from .output import NOTHING, echo_json, echo_table, note, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.slices import Slice

COLUMNS = ("part of the cells", "cells", "mean", "change", "95 % from", "to", "verdict")


@click.command(
    cls=Command,
    positional={"run": f"Evaluation to look at: {RUN}."},
    examples=("hela-store slices -s fluo RUN", "hela-store slices -s fluo latest --json"),
)
@click.argument("run", metavar="RUN")
@click.option("--metric", type=click.Choice(METRICS), default="iou", show_default=True, help="Look at this metric.")
@store_option
@json_option
def slices(store: Store, run: str, metric: str, as_json: bool) -> None:
    """Find the groups of cells on which a run is worse.

    Groups are small, dim, touching and late cells and others. Each is compared with all cells of the run.
    """
    import hela_store as hs

    found = hs.slices(store, run, metric=metric)
    if as_json:
        echo_json(found.to_json())
        return
    for prompt in dict.fromkeys(row.prompt for row in found.rows):
        rows = [row for row in found.rows if row.prompt == prompt]
        title = f"{METRIC_WORDS.get(metric, metric)} with {prompt}, mean {rows[0].mean_all:.3f}"
        say(f"{title}; {len(rows)} groups of cells, corrected for their number; {found.units}")
        echo_table(COLUMNS, [_line(row) for row in rows])
    for text in found.notes:
        note(f"note: {text}")
    verdicts.slices(found)


def _line(row: Slice) -> list[int | str]:
    numbers = (f"{value:+.3f}" if value == value else NOTHING for value in (row.change.mean, row.low, row.high))
    return [PARTS.get(row.part, row.part), row.cells, f"{row.mean:.3f}", *numbers, row.word or NOTHING]
