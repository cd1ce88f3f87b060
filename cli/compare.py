"""`hela-store compare`."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

import click

from hela_store.evaluation.config import METRIC_WORDS, METRICS, PARTS

from . import verdicts
from .help import RUN, Command
from .options import full_option, json_option, store_option
from .output import NOTHING, bars, echo_json, echo_table, is_full, note, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.compare import Difference

NUMBERS = ("cells", "n", "first", "other", "mean", "95 % from", "to", "median", "better", "worse")
COLUMNS = ("prompt", *NUMBERS, "bootstrap from", "to", "verdict")
SHORT = ("prompt", "cells", "first", "other", "change", "95 % from", "to", "verdict")
SPREAD = ("prompt", "mean over frames", "95 % from", "to", "frames: median", "quartile", "to", "each training seed")
SUBSETS = ("prompt and subset", *NUMBERS)
EXPLORATORY = "exploratory: the intervals of subsets are not corrected for their number, so they carry no verdict"


@click.command(
    cls=Command,
    positional={"runs": f"Two or more evaluations; the first is what the others are compared with. RUN is {RUN}."},
    examples=("hela-store compare -s fluo RUN RUN", "hela-store compare -s fluo ZERO A1,A2,A3 --metric dice"),
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--metric", type=click.Choice(METRICS), default="iou", show_default=True, help="Compare this metric.")
@store_option
@full_option
@json_option
def compare(store: Store, runs: tuple[str, ...], metric: str, as_json: bool) -> None:
    """Compare runs with the first one, on the same prompts and cells.

    Join runs that differ only in the training seed with commas, such as A1,A2,A3.
    """
    import hela_store as hs

    if len(runs) < 2:
        raise click.UsageError("give two runs or more, such as `hela-store compare RUN RUN`")
    found = hs.compare(store, runs, metric=metric, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    for variant in dict.fromkeys(row.variant for row in found.rows):
        rows = [row for row in found.rows if row.variant == variant]
        whole = [row for row in rows if not row.is_exploratory]
        say(f"Change in {METRIC_WORDS.get(metric, metric)} from {found.first} to {variant}; {found.units}")
        subsets = [row for row in rows if row.is_exploratory]
        (_full if is_full() else _short)(whole, subsets)
    for text in found.notes:
        note(f"note: {text}")
    verdicts.next_step("report " + " ".join(shlex.quote(run) for run in runs if "," not in run))


def _full(whole: list[Difference], subsets: list[Difference]) -> None:
    echo_table(COLUMNS, [[row.prompt, *_numbers(row), *_bootstrap(row), row.word] for row in whole])
    echo_table(SPREAD, [_spread(row) for row in whole])
    say(EXPLORATORY)
    echo_table(SUBSETS, [[f"{row.prompt}, {row.subset}", *_numbers(row)] for row in subsets])


def _short(whole: list[Difference], subsets: list[Difference]) -> None:
    echo_table(SHORT, [[row.prompt, *_few(row), row.word or NOTHING] for row in whole])
    say(EXPLORATORY)
    echo_table(
        ("prompt and subset", *SHORT[1:-1]),
        [[f"{row.prompt}, {PARTS.get(row.subset, row.subset)}", *_few(row)] for row in subsets],
    )
    for row in whole:
        ends = verdicts.interval(row.mean, row.per_cell.low, row.per_cell.high)
        alike = "no verdict, because the changes are all alike"
        word = row.word or (alike if row.per_cell.is_flat else "too few frames or seeds for a verdict")
        say(f"{row.prompt}: {row.mean_a:.3f} -> {row.mean_b:.3f} ({ends}), {word}.")


def _few(row: Difference) -> list[int | str]:
    ends = (row.mean, row.per_cell.low, row.per_cell.high)
    changes = (NOTHING if math.isnan(value) else f"{value:+.3f}" for value in ends)
    return [row.cells, f"{row.mean_a:.3f}", f"{row.mean_b:.3f}", *changes]


def _numbers(row: Difference) -> list[int | float]:
    ends = [row.per_cell.low, row.per_cell.high]
    return [row.cells, row.n, row.mean_a, row.mean_b, row.mean, *ends, row.median, row.better, row.worse]


def _bootstrap(row: Difference) -> list[float]:
    return [row.per_cell.bootstrap_low, row.per_cell.bootstrap_high]


def _spread(row: Difference) -> list[str | float]:
    frames, interval = row.frames, row.per_frame
    numbers = [interval.mean, interval.low, interval.high, frames.median, frames.low_quartile, frames.high_quartile]
    return [row.prompt, *numbers, ", ".join(f"{value:+.4f}" for value in row.by_seed)]
