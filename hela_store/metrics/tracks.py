"""Say which cells of different frames are the same cell: by their labels where these say so, else by overlap.

All frames of a block show mostly the same cells, so a cell over time is what an interval has to count once. Labels of a
tracked data set keep their value over time. Others are numbered anew in each frame; then a cell is linked with the one
it overlaps in the next labelled frame of its sequence, one to one by :func:`hela_store.metrics.matching.match`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hela_store.base.aliases import LabelArray
from hela_store.images.labels import SharedPixels, shared_pixels

from .matching import best_of_each, match

Method = Literal["labels", "linked by overlap", "images"]
TRACKED_FROM = 0.9
"""Share of the overlapping cells of neighbouring frames that must have equal labels for labels to be tracks."""


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Tracks of cells.

    Attributes
    ----------
    method : how they were found; ``"images"``: of stills, where all cells of an image are one unit
    of : dict of (frame, label) to its track
    """

    method: Method
    of: dict[tuple[str, int], Hashable]


def link(frames: Iterable[tuple[str, str, LabelArray]]) -> Tracks:
    """Return the tracks of the cells of labelled frames.

    Parameters
    ----------
    frames : (frame, sequence, label image) in the order of sequences and time; label images are integer, (row, col)
    """
    labels: dict[tuple[str, int], Hashable] = {}
    linked: dict[tuple[str, int], Hashable] = {}
    before: tuple[str, str, LabelArray] | None = None
    same = links = 0
    for frame, sequence, image in frames:
        earlier: dict[int, int] = {}
        if before is not None and before[1] == sequence and before[2].shape == image.shape:
            earlier = _links(shared_pixels(image, before[2]))
            links += len(earlier)
            same += sum(one == other for one, other in earlier.items())
        for label in np.unique(image[image > 0]).tolist():
            labels[frame, label] = (sequence, label)
            linked[frame, label] = (frame, label)
            if before is not None and label in earlier:
                linked[frame, label] = linked[before[0], earlier[label]]
        before = (frame, sequence, image)
    if links and same >= TRACKED_FROM * links:
        return Tracks(method="labels", of=labels)
    return Tracks(method="linked by overlap", of=linked)


def traced(frames: Iterable[tuple[str, LabelArray]]) -> set[tuple[str, int]]:
    """Return the cells that trace back to a cell of the first frame, by the largest overlap from frame to frame.

    Not one to one: both daughters of a cell trace back to it.

    Parameters
    ----------
    frames : (frame, label image) of one sequence in the order of time, or in reverse; integer, (row, col)

    Returns
    -------
    set of (frame, label)
        Those of the first frame are among them.
    """
    held: set[tuple[str, int]] = set()
    before: tuple[str, LabelArray] | None = None
    for frame, image in frames:
        if before is None:
            held |= {(frame, label) for label in np.unique(image[image > 0]).tolist()}
        elif before[1].shape == image.shape:
            pairs = best_of_each(shared_pixels(image, before[1]))
            for first, second in zip(pairs.first, pairs.second, strict=True):
                if (before[0], int(pairs.second_labels[second])) in held:
                    held.add((frame, int(pairs.first_labels[first])))
        before = (frame, image)
    return held


def _links(pairs: SharedPixels) -> dict[int, int]:
    """Return the label of the second image that each matched label of the first is linked with."""
    ious = np.zeros((len(pairs.first_labels), len(pairs.second_labels)))
    ious[pairs.first, pairs.second] = pairs.ious
    partner = match(ious).partner
    return {
        int(pairs.first_labels[row]): int(pairs.second_labels[column])
        for row, column in enumerate(partner)
        if column >= 0
    }
