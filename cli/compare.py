"""`hela-store compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hela_store.evaluation.config import METRICS

from .help import Command
from .options import full_option, json_option, store_option
from .output import bars, echo_json, echo_table, note

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.compare import Difference

NUMBERS = ("cells", "n", "first", "this", "mean", "95 % from", "to", "median", "better", "worse")
COLUMNS = ("prompt", *NUMBERS, "bootstrap from", "to", "verdict")
SPREAD = ("prompt", "mean over frames", "95 % from", "to", "frames: median", "quartile", "to", "each training seed")
SUBSETS = ("prompt and subset", *NUMBERS)
EXPLORATORY = "exploratory: the intervals of subsets are not corrected for their number, so they carry no verdict"


@click.command(
    cls=Command,
    examples=("hela-store compare -s fluo RUN RUN", "hela-store compare -s fluo ZERO A1,A2,A3 --metric dice"),
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--metric", type=click.Choice(METRICS), default="iou", show_default=True, help="Compare this metric.")
@store_option
@full_option
@json_option
def compare(store: Store, runs: tuple[str, ...], metric: str, as_json: bool) -> None:
    """Compare runs with the first one, on the same prompts and cells. Write training seeds as A1,A2,A3."""
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
        click.echo(f"{metric} of {variant} less that of {found.first}; {found.units}")
        echo_table(COLUMNS, [[row.prompt, *_numbers(row), *_bootstrap(row), row.word] for row in whole])
        echo_table(SPREAD, [_spread(row) for row in whole])
        click.echo(EXPLORATORY)
        echo_table(SUBSETS, [[f"{r.prompt}, {r.subset}", *_numbers(r)] for r in rows if r.is_exploratory])
    for text in found.notes:
        note(f"note: {text}")


def _numbers(row: Difference) -> list[int | float]:
    ends = [row.per_cell.low, row.per_cell.high]
    return [row.cells, row.n, row.mean_a, row.mean_b, row.mean, *ends, row.median, row.better, row.worse]


def _bootstrap(row: Difference) -> list[float]:
    return [row.per_cell.bootstrap_low, row.per_cell.bootstrap_high]


def _spread(row: Difference) -> list[str | float]:
    frames, interval = row.frames, row.per_frame
    numbers = [interval.mean, interval.low, interval.high, frames.median, frames.low_quartile, frames.high_quartile]
    return [row.prompt, *numbers, ", ".join(f"{value:+.4f}" for value in row.by_seed)]
