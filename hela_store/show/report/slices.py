"""Say on which parts of the cells the last run is worse than its mean, corrected for looking at many."""

from __future__ import annotations

from hela_store.errors import HelaError
from hela_store.evaluation.config import PARTS
from hela_store.evaluation.slices import Slice
from hela_store.evaluation.slices import slices as run_slices

from .choice import Choice
from .page import Section, Table, number


def slices(choice: Choice) -> Section | None:
    """Return the section; None where no run in it scored the reported block alone."""
    tables, notes = [], []
    splits = {run.id: run.split for run in choice.runs}
    for run in dict.fromkeys(pair.after.run for pair in choice.pairs):
        asked = [pair.prompt for pair in choice.pairs if pair.after.run == run]
        if splits.get(run) != choice.split:
            continue
        try:
            found = run_slices(choice.store, run)
        except HelaError as error:
            notes.append(str(error))
            continue
        for prompt in asked:
            rows = [row for row in found.rows if row.prompt == prompt]
            if rows:
                tables.append(
                    _table(rows, f"{next(p.after.name for p in choice.pairs if p.after.run == run)}, {prompt}")
                )
        notes += [note for note in found.notes if note not in notes]
    text = (
        "The difference is the mean IoU of a part of the cells less the mean of all cells of the same run, the lowest "
        "first. Only the verdict says whether a part is worse; without an interval there is none. The intervals are "
        "corrected "
        "for the number of parts (Holm)."
    )
    return Section(id="slices", title="Where it is worse", text=text, tables=tables, notes=notes) if tables else None


def _table(rows: list[Slice], title: str) -> Table:
    columns = ("part of the cells", "cells", "IoU", "difference", "95 % from", "to", "verdict")
    return Table(
        columns=columns,
        rows=[
            (PARTS.get(row.part, row.part), str(row.cells), number(row.mean), *_ends(row), row.word or "–")
            for row in rows
        ],
        title=title,
    )


def _ends(row: Slice) -> tuple[str, ...]:
    return tuple("–" if value != value else f"{value:+.3f}" for value in (row.change.mean, row.low, row.high))
