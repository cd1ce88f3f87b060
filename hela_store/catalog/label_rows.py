"""Rows of the catalog from the log of label changes: the events, and the cells that each version changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from hela_store.base.segments import label_segments
from hela_store.base.text import first_line
from hela_store.errors import RESTORE_LABELS, StoreError

from .staged import Connection, schema_of, staged

Rows = list[dict[str, Any]]


def add_versions(con: Connection, store: Path, versions: Collection[int]) -> None:
    """Add versions of the labels to the catalog in use; those before each are in it already, or among these.

    Raises
    ------
    StoreError
        A segment of the log is missing or damaged, one of an earlier version included.
    """
    if not versions:
        return
    log = label_segments(store)
    for version, segment in enumerate(log.chain(max(log.latest, *versions)), 1):
        if version in versions:
            _add_version(con, log.path(version), version, segment.lines)


def _add_version(con: Connection, path: Path, version: int, lines: Sequence[dict[str, Any]]) -> None:
    try:
        events = [_event(version, number, line["event"]) for number, line in enumerate(lines)]
        cells, gone, frames = _changes(version, [line["change"] for line in lines])
        tables = [_table(con, name, rows) for name, rows in (("label_events", events), ("cell_versions", cells))]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}); {RESTORE_LABELS}") from None
    with staged(con, "found", tables[0]):
        con.execute("INSERT INTO label_events FROM found")
    ended = pa.table({"cell": pa.array(sorted({*gone, *(cell["cell"] for cell in cells)}), pa.string())})
    with staged(con, "ended", ended), staged(con, "found", tables[1]):
        con.execute(
            "UPDATE cell_versions SET until = ? WHERE until IS NULL AND cell IN (SELECT cell FROM ended)", [version]
        )
        con.execute("INSERT INTO cell_versions FROM found ORDER BY cell")
    for frame, (has_label, partial) in frames.items():
        con.execute(
            "UPDATE frames SET has_label = $1, partial = $2, label_origin = CASE WHEN NOT $1 THEN '' "
            "WHEN label_origin = '' THEN 'edited' ELSE label_origin END WHERE frame = $3",
            [has_label, partial, frame],
        )


def _event(version: int, number: int, event: dict[str, Any]) -> dict[str, Any]:
    plain = ("kind", "frame", "cells", "seconds", "who", "reason", "sum", "target")
    when = datetime.fromisoformat(event["when"]).astimezone(UTC).replace(tzinfo=None)
    return {name: event[name] for name in plain} | {
        "version": version,
        "number": number,
        "when": when,
        "masks": [mask["counts"] for mask in event["masks"]],
        "clicks": [click[name] for click in event["clicks"] for name in ("x", "y")],
        "click_labels": [int(click["is_cell"]) for click in event["clicks"]],
        "boxes": [box[name] for box in event["boxes"] for name in ("x0", "y0", "x1", "y1")],
    }


def _changes(version: int, changes: Rows) -> tuple[Rows, set[str], dict[str, tuple[bool, bool]]]:
    """Return the cells that a version leaves new or changed, those it removes, and the state of its frames."""
    cells: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    frames: dict[str, tuple[bool, bool]] = {}
    for change in changes:
        for label in change["gone"]:
            cell = f"{change['frame']}#{label}"
            cells.pop(cell, None)
            gone.add(cell)
        cells |= {cell["cell"]: cell | {"since": version, "until": None} for cell in change["cells"]}
        frames[change["frame"]] = (change["has_label"], change["partial"])
    return list(cells.values()), gone, frames


def _table(con: Connection, name: str, rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema_of(con, name))
