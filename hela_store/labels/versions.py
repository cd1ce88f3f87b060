"""Labels and cells of a store at any version; take back and repeat versions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.errors import StoreError
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .events import Kind, LabelEvent
from .log import LabelLog


def now() -> str:
    """Return the time as events have it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat("T", "milliseconds")


def label_at(store: Store, frame: str, version: int | None = None) -> npt.NDArray[np.int32]:
    """Return the labels of a frame at a version.

    Parameters
    ----------
    store : Store
    frame : str
        Id of the frame, such as ``"01/t012"``.
    version : int, optional
        0 is as ingested; by default the latest.

    Returns
    -------
    ndarray of int32, shape (row, col)
        0 is background.

    Raises
    ------
    StoreError
        There is no such version or frame, or the labels or their log are damaged.
    """
    versioned = store.at_labels(version)
    if frame not in versioned.frame_records():
        raise StoreError(f"{store.path} has no frame {frame!r}")
    return versioned.pixels.label(frame).astype(np.int32, copy=False)


def cells_at(store: Store, version: int | None = None) -> list[CellRecord]:
    """Return all cells at a version, frame by frame in order of label; arguments and errors as :func:`label_at`."""
    return list(CellRecord.of(store.at_labels(version).cells_table()))


def free_label(store: Store, frame: str) -> int:
    """Return a label that no cell of the frame's sequence has at any version.

    In a time-lapse equal labels are the same cell over time, so that a new cell takes a label of none.
    """
    sequence = frame.rpartition("/")[0]
    highest = 0
    for table in (store.at_labels(0).cells_table(), store.at_labels().cells_table()):
        names = (name.rpartition("/")[0] == sequence for name in table["frame"].to_pylist())
        labels = zip(names, table["label"].to_pylist(), strict=True)
        highest = max([highest, *(label for same, label in labels if same)])
    for version in store.label_log.versions():
        for line in version:
            if line.change.frame.rpartition("/")[0] == sequence:
                highest = max([highest, *line.event["cells"]])
    return highest + 1


def undo(log: LabelLog, *, who: str, seconds: float = 0.0) -> int | None:
    """Take back the last version that was not taken back yet, as a new version.

    Parameters
    ----------
    log : LabelLog
    who : str
        Who does it.
    seconds : float
        How long the person took.

    Returns
    -------
    int or None
        The new version; None where there is nothing to take back. Versions that label files made are not taken back.

    Raises
    ------
    StoreError
        As :meth:`LabelLog.append`.
    """
    return _again(log, "undo", who, seconds)


def redo(log: LabelLog, *, who: str, seconds: float = 0.0) -> int | None:
    """Repeat the version that was taken back last, as a new version; as :func:`undo`."""
    return _again(log, "redo", who, seconds)


def _again(log: LabelLog, kind: Kind, who: str, seconds: float) -> int | None:
    log.hold()
    history = log.history()
    stack = history.done if kind == "undo" else history.undone
    if not stack:
        return None
    about: dict[str, Any] = {"kind": kind, "who": who, "when": now(), "seconds": seconds, "target": stack[-1]}
    return log.append(LabelEvent(frame=frame, **about) for frame in history.frames[stack[-1]])
