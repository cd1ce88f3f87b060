"""`hela-store info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .help import Command
from .options import json_option, store_option, typed
from .output import echo_facts, echo_json, echo_row, echo_table

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.workflows.info import RunLine

HEADINGS = {"mean_iou": "mean IoU", "mean_dice": "mean Dice", "empty": "empty masks"}
"""Headings of columns that are not named as in JSON."""


@click.command(cls=Command, examples=("hela-store info -s fluo",))
@store_option
@click.option("--watch", is_flag=True, help="Follow the log of the run that is being written.")
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
        rows = [asdict(line) | {"empty": _empty(line)} for line in found.runs]
        if not found.labels_version:
            rows = [{name: value for name, value in row.items() if name != "labels_version"} for row in rows]
        click.echo()
        headings = [HEADINGS.get(name, name.replace("_", " ")) for name in rows[0]]
        echo_table(headings, [list(row.values()) for row in rows])
    todo = "finetune" if found.views_planned and found.views_done == found.views_planned else "embed"
    click.echo(f"Next: {typed('report' if found.default_run else todo)}")


def _empty(line: RunLine) -> str | None:
    """Return how many masks of a run are empty, as a count."""
    return None if line.n is None or line.empty is None else f"{round(line.n * line.empty)} of {line.n}"
