"""Show the most suspicious labels of the latest audit, and how well it found injected faults."""

from __future__ import annotations

from hela_store.audit.result import KIND, AuditResult
from hela_store.base.text import percent
from hela_store.errors import HelaError
from hela_store.runs.folder import list_runs
from hela_store.show.cards import data_address
from hela_store.show.suspects import LEGEND, suspect_pictures

from .choice import Choice
from .page import Section, Table

MOST = 40
"""Suspects in the report; a picture takes about 10 kB of the page."""
WIDE = 700
FIRST = """
    SELECT s.rank, s.frame, s.cell, c.label, s.x0, s.y0, s.x1, s.y1, s.score, s.kind, s.reason, s.rle, r.labels_version
    FROM suspects s JOIN runs r ON r.id = s.run
    LEFT JOIN cells_at c ON c.cell = s.cell AND c.labels_version = r.labels_version
    WHERE s.run = $run AND s.rank <= $most ORDER BY s.rank
"""


def suspects(choice: Choice) -> Section | None:
    """Return the section; None without an audit."""
    runs = list_runs(choice.store.path, KIND)
    if not runs:
        return None
    found = AuditResult.of(runs[-1])
    rows = choice.rows(FIRST, run=found.run, most=MOST)
    pictures, notes, latest = [], list(found.notes), choice.store.at_labels().labels_version
    if runs[-1].labels_version != latest:
        notes.append(
            f"these labels are of version {runs[-1].labels_version}, which was audited; the latest is {latest}"
        )
    try:
        for row, picture in zip(rows, suspect_pictures(choice.store, rows), strict=True):
            name = row["cell"] or f"{row['frame']} at {(row['x0'] + row['x1']) // 2}, {(row['y0'] + row['y1']) // 2}"
            words = f"{row['rank']}. {name}, {row['score']:.2f}: {row['reason']}"
            pictures.append((words, data_address(picture, WIDE)))
    except HelaError as error:
        notes.append(f"the pictures end here: {error}")
    columns = (
        "injected fault",
        "n",
        *(f"found in the first {percent(share, 0)}" for share in found.flagged),
        "kind named",
    )
    lines = [(one.kind, str(one.n), *(percent(at, 0) for at in one.at), percent(one.named, 0)) for one in found.recall]
    text = (
        f"Labels that may be wrong, by {found.run}: {found.likely} of {found.labels} labels and {found.places} places "
        f"without one have a score of 0.5 or more. {LEGEND[0].upper()}{LEGEND[1:]}."
    )
    return Section(
        id="suspects",
        title="Suspicious labels",
        text=text,
        tables=[Table(columns=columns, rows=lines)] if lines else [],
        pictures=pictures,
        notes=notes,
    )
