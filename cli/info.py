"""`hela-store info`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .help import Command
from .options import full_option, json_option, store_option, typed
from .output import echo_facts, echo_json, echo_row, echo_table, is_full

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.workflows.info import RunLine

HEADINGS = {"mean_iou": "mean IoU", "mean_dice": "mean Dice", "empty": "empty masks", "split": "frames"}
"""Headings of columns that are not named as in JSON."""
SHORT = ("run", "decoder", "split", "prompt", "n", "mean_iou")
"""Columns that fit 80 characters."""
FEW = 3
"""Hyphens that an id of a run has at least, such as 20261128-095219-finetune-box-61fe; a method has fewer."""


@click.command(cls=Command, examples=("hela-store info -s fluo",))
@store_option
@click.option("--watch", is_flag=True, help="Follow the log of the run that is being written.")
@full_option
@json_option
def info(store: Store, watch: bool, as_json: bool) -> None:
    """Show the frames, cells, size and runs of a store."""
    import hela_store as hs

    if watch:
        from hela_store.runs.watch import watch as follow

        for row in follow(store.path):
            echo_row(row, as_json)
        return
    found = hs.info(store)
    if as_json:
        echo_json(found.to_json())
        return
    echo_facts(found.facts())
    if found.runs:
        click.echo()
        _echo_runs(found.runs, found.labels_version)
    todo = "finetune" if found.views_planned and found.views_done == found.views_planned else "embed"
    click.echo(f"Next: {typed('report' if found.default_run else todo)}")


def _echo_runs(runs: Sequence[RunLine], labels_version: int) -> None:
    """Print the scores of runs: with ``--full`` all that is known, else what fits 80 characters."""
    rows = [asdict(line) | {"empty": _empty(line), "decoder": _decoder(line)} for line in runs]
    names: Sequence[str] = SHORT
    if is_full():
        hidden = {"decoder"} if labels_version else {"decoder", "labels_version"}
        names = [name for name in rows[0] if name not in hidden]
    echo_table(
        [HEADINGS.get(name, name.replace("_", " ")) for name in names], [[row[k] for k in names] for row in rows]
    )


def _decoder(line: RunLine) -> str | None:
    """Return which decoder was scored, shortly: a run by the end of its id."""
    if line.checkpoint is None or line.checkpoint.count("-") < FEW:
        return line.checkpoint
    return "-".join(line.checkpoint.split("-")[-2:])


def _empty(line: RunLine) -> str | None:
    """Return how many masks of a run are empty, as a count."""
    return None if line.n is None or line.empty is None else f"{round(line.n * line.empty)} of {line.n}"
