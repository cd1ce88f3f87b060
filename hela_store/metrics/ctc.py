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

from hela_store.base.aliases import LabelArray
from hela_store.errors import DatasetError
from hela_store.images.labels import shared_pixels

from .matching import majority

MISSED, SPURIOUS, SPLIT = 10, 1, 5


@dataclass(frozen=True, kw_only=True)
class FrameMatch:
    """Contribution of one frame to SEG and DET.

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
    """Match the objects of two label images of one frame by :func:`majority`; integer (row, col), 0 background.

    Raises
    ------
    DatasetError
        Their sizes differ.
    """
    if truth.shape != found.shape:
        raise DatasetError(f"labels of {found.shape} (rows, cols) for a truth of {truth.shape}; expected one size")
    pairs = majority(shared_pixels(truth, found))
    uses = np.bincount(pairs.second, minlength=len(pairs.second_labels))
    return FrameMatch(
        truth=len(pairs.first_labels),
        found=len(pairs.second_labels),
        missed=len(pairs.first_labels) - len(pairs.first),
        spurious=int(np.count_nonzero(uses == 0)),
        splits=int(np.maximum(uses - 1, 0).sum()),
        iou_sum=float(pairs.ious.sum()),
    )


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
