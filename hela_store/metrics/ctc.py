"""SEG and DET of the Cell Tracking Challenge, frame by frame and over a sequence.

A truth object is matched by the result object that covers more than half of it. SEG is the mean IoU of the truth
objects with their matches, 0 where there is none (Maska et al., Bioinformatics 2014). DET is
``1 - min(cost, cost of nothing) / cost of nothing`` with 10 for a truth object missed, 1 for a result object too many,
5 for every further truth object that one result object matches (Matula et al., PLoS ONE 2015). The field of interest
is the caller's: see :func:`hela_store.images.labels.apply_field_of_interest`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import LabelArray
from hela_store.errors import DatasetError

MISSED, SPURIOUS, SPLIT = 10, 1, 5


@dataclass(frozen=True, kw_only=True)
class FrameMatch:
    """What one frame adds to SEG and DET.

    Attributes
    ----------
    truth, found : objects in either image
    missed : truth objects that nothing matches
    spurious : result objects that match nothing
    splits : over result objects that match several truth objects, how many beyond the first
    iou_sum : over truth objects, IoU with their matches
    """

    truth: int
    found: int
    missed: int
    spurious: int
    splits: int
    iou_sum: float

    @property
    def count_error(self) -> int:
        """Objects found less objects there are."""
        return self.found - self.truth


def match_frame(truth: LabelArray, found: LabelArray) -> FrameMatch:
    """Match the objects of two label images of one frame, integer (row, col), 0 background.

    Raises
    ------
    DatasetError
        Their sizes differ.
    """
    if truth.shape != found.shape:
        raise DatasetError(f"labels of {found.shape} (rows, cols) for a truth of {truth.shape}; expected one size")
    areas, truth_index = _objects(truth)
    found_areas, found_index = _objects(found)
    both = (truth_index > 0) & (found_index > 0)
    stride = len(found_areas) + 1
    pairs, shared = np.unique(truth_index[both].astype(np.int64) * stride + found_index[both], return_counts=True)
    rows, columns = pairs // stride - 1, pairs % stride - 1
    good = 2 * shared > areas[rows]
    rows, columns, shared = rows[good], columns[good], shared[good]
    uses = np.bincount(columns, minlength=len(found_areas))
    return FrameMatch(
        truth=len(areas),
        found=len(found_areas),
        missed=len(areas) - len(rows),
        spurious=int(np.count_nonzero(uses == 0)),
        splits=int(np.maximum(uses - 1, 0).sum()),
        iou_sum=float((shared / (areas[rows] + found_areas[columns] - shared)).sum()),
    )


def _objects(label: LabelArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the areas of the objects, and the image with their numbers, 1 to n."""
    values = np.unique(label[label != 0])
    # searching the foreground alone is several times faster than np.unique(..., return_inverse=True) on all
    index = np.zeros(label.shape, np.int64)
    index[label != 0] = np.searchsorted(values, label[label != 0]) + 1
    return np.bincount(index.ravel(), minlength=len(values) + 1)[1:], index


def seg(matches: Iterable[FrameMatch]) -> float:
    """Return SEG over frames; NaN where there is no truth object."""
    parts = list(matches)
    objects = sum(part.truth for part in parts)
    return sum(part.iou_sum for part in parts) / objects if objects else math.nan


def det(matches: Iterable[FrameMatch]) -> float:
    """Return DET over frames; NaN where there is no truth object."""
    parts = list(matches)
    nothing = MISSED * sum(part.truth for part in parts)
    cost = sum(MISSED * part.missed + SPURIOUS * part.spurious + SPLIT * part.splits for part in parts)
    return 1 - min(cost, nothing) / nothing if nothing else math.nan
