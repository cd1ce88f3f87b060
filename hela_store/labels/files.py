"""Turn a label image that differs from the labels of a store into events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import LabelArray
from hela_store.base.sums import array_sum
from hela_store.images import rle
from hela_store.images.rle import Rle

from .diff import frame_difference
from .events import FILE, LONGEST_TEXT, Kind, LabelEvent
from .versions import now


def events_between(
    frame: str, before: LabelArray, after: LabelArray, *, who: str, reason: str = ""
) -> list[LabelEvent]:
    """Return the events that lead from one label image of a frame to another; none where they are equal.

    Parameters
    ----------
    frame : str
        Id of the frame.
    before, after : ndarray of int, shape (row, col)
        0 is background.
    who, reason : str
        As in :class:`LabelEvent`.
    """
    differs = frame_difference(frame, before, after)
    wanted: tuple[tuple[Kind, tuple[int, ...]], ...]
    wanted = (("erase", differs.gone), ("replace", differs.changed), ("add", differs.new))
    sum_ = array_sum(frame, after.astype(np.int32, copy=False))
    about: dict[str, Any] = {"frame": frame, "who": who, "when": now(), "reason": reason[-LONGEST_TEXT:], "sum": sum_}
    found = []
    for kind, cells in wanted:
        masks = () if kind == "erase" else tuple(_mask(after, cell) for cell in cells)
        if cells:
            found.append(LabelEvent(kind=kind, cells=cells, masks=masks, **about))
    return found


def complete_event(like: LabelEvent) -> LabelEvent:
    """Return the event that says that all cells of a frame are labelled, with what another one says beside."""
    about: dict[str, Any] = {name: getattr(like, name) for name in ("frame", "who", "when", "reason", "sum")}
    return LabelEvent(kind="complete", **about)


def known_file_sum(events: Iterable[LabelEvent], frame: str, ingested: LabelArray) -> str:
    """Return the sum of the label file of a frame that the store knows: of the last one taken in, or as ingested."""
    sums = [event.sum for event in events if event.frame == frame and event.who == FILE]
    return sums[-1] if sums else array_sum(frame, ingested.astype(np.int32, copy=False))


def counted(events: Sequence[LabelEvent]) -> str:
    """Return in words how many cells events change, such as ``"3 changed, 1 new, 2 gone"``."""
    counts = Counter[str]()
    for event in events:
        counts[event.kind] += len(event.cells)
    words = (("replace", "changed"), ("add", "new"), ("erase", "gone"))
    return ", ".join(f"{counts[kind]} {word}" for kind, word in words if counts[kind])


def _mask(label: npt.NDArray[np.integer], cell: int) -> Rle:
    shape = (label.shape[0], label.shape[1])
    mask, origin = rle.trim(label == cell)
    return rle.encode(mask, origin, shape)
