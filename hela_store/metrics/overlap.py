"""Scores of one mask against one truth, and their means.

Truth is never empty. An empty prediction scores 0, in IoU as in Dice, and so does the (impossible) empty pair: nothing
is never rewarded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Pixel counts of two masks of the same frame.

    Attributes
    ----------
    intersection, area_a, area_b : int, px
    """

    intersection: int
    area_a: int
    area_b: int

    @property
    def iou(self) -> float:
        """Intersection over union, 0 if both masks are empty."""
        union = self.area_a + self.area_b - self.intersection
        return self.intersection / union if union else 0.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of areas, 0 if both masks are empty."""
        total = self.area_a + self.area_b
        return 2 * self.intersection / total if total else 0.0


def overlap(
    a: BoolArray, b: BoolArray, origin_a: tuple[int, int] = (0, 0), origin_b: tuple[int, int] = (0, 0)
) -> Overlap:
    """Count what two crops of a frame share; crops need not have the same place or size.

    Parameters
    ----------
    a, b : bool, (row, col)
    origin_a, origin_b : (int, int)
        ``(x, y)`` px, frame, of each crop's first pixel.
    """
    x0, y0 = max(origin_a[0], origin_b[0]), max(origin_a[1], origin_b[1])
    x1 = min(origin_a[0] + a.shape[1], origin_b[0] + b.shape[1])
    y1 = min(origin_a[1] + a.shape[0], origin_b[1] + b.shape[0])
    shared = 0
    if x1 > x0 and y1 > y0:
        part_a = a[y0 - origin_a[1] : y1 - origin_a[1], x0 - origin_a[0] : x1 - origin_a[0]]
        part_b = b[y0 - origin_b[1] : y1 - origin_b[1], x0 - origin_b[0] : x1 - origin_b[0]]
        shared = int(np.count_nonzero(part_a & part_b))
    return Overlap(intersection=shared, area_a=int(np.count_nonzero(a)), area_b=int(np.count_nonzero(b)))


def iou(a: BoolArray, b: BoolArray) -> float:
    """Return intersection over union of two masks of the same shape, ``bool, (row, col)``; 0 if both are empty."""
    return overlap(a, b).iou


def dice(a: BoolArray, b: BoolArray) -> float:
    """Return the Dice coefficient of two masks of the same shape, ``bool, (row, col)``; 0 if both are empty."""
    return overlap(a, b).dice


def equivalent_diameter(area: float) -> float:
    """Return the diameter, px, of the disc of this area, px^2."""
    return math.sqrt(4.0 * area / math.pi)


def skill(score: float, free: float) -> float:
    """Return the share of what an image-free answer left open that was won: ``(score - free) / (1 - free)``.

    NaN where the image-free answer is perfect, because nothing was left to win.
    """
    return (score - free) / (1.0 - free) if free < 1.0 else math.nan


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means over cells; NaN where there are none.

    Attributes
    ----------
    n : int
        Cells scored.
    mean_iou, mean_dice : float
        With empty predictions counted as 0.
    empty : float
        Share of empty predictions, 0..1.
    """

    n: int
    mean_iou: float
    mean_dice: float
    empty: float


def summary(
    ious: Sequence[float] | npt.NDArray[np.floating],
    dices: Sequence[float] | npt.NDArray[np.floating],
    empties: Sequence[bool] | BoolArray,
) -> Summary:
    """Return the means over cells of three equally long columns: IoU, Dice, and whether the prediction was empty."""
    if not len(ious) == len(dices) == len(empties):
        raise ValueError(f"columns of different lengths: {len(ious)}, {len(dices)}, {len(empties)}")
    if len(ious) == 0:
        return Summary(n=0, mean_iou=math.nan, mean_dice=math.nan, empty=math.nan)
    return Summary(
        n=len(ious), mean_iou=float(np.mean(ious)), mean_dice=float(np.mean(dices)), empty=float(np.mean(empties))
    )
