"""Say how the labels of two versions differ, frame by frame."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hela_store.base.aliases import LabelArray
from hela_store.store.store import Store


@dataclass(frozen=True, kw_only=True)
class FrameDifference:
    """The difference between the labels of one frame in two versions.

    Attributes
    ----------
    frame : str
    pixels : int
        Pixels with another label.
    changed, new, gone : tuple of int
        Labels of cells with other pixels, of cells that only the second has, and of those that only the first has.
    """

    frame: str
    pixels: int
    changed: tuple[int, ...]
    new: tuple[int, ...]
    gone: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def frame_difference(frame: str, before: LabelArray, after: LabelArray) -> FrameDifference:
    """Compare two label images of a frame, int, (row, col), 0 is background."""
    differs = before != after
    old, new = (set(np.unique(label[label > 0]).tolist()) for label in (before, after))
    moved = set(np.unique(before[differs]).tolist()) | set(np.unique(after[differs]).tolist())
    return FrameDifference(
        frame=frame,
        pixels=int(np.count_nonzero(differs)),
        changed=tuple(sorted(moved & old & new)),
        new=tuple(sorted(new - old)),
        gone=tuple(sorted(old - new)),
    )


def diff(store: Store, first: int | None, second: int | None) -> list[FrameDifference]:
    """Return the frames whose labels differ between two versions, in the order of the frames.

    Parameters
    ----------
    store : Store
    first, second : int, optional
        Versions; 0 is as ingested, None the latest.

    Raises
    ------
    StoreError
        There is no such version, or the log is damaged.
    """
    one, other = store.at_labels(first), store.at_labels(second)
    touched = one.label_states().keys() | other.label_states().keys()
    found = []
    for frame in one.frame_records():
        if frame in touched:
            difference = frame_difference(frame, one.pixels.label(frame), other.pixels.label(frame))
            if difference.pixels:
                found.append(difference)
    return found
