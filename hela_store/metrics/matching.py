"""Say which object is which: every rule by which results and truth become pairs.

One to one, from a table of IoUs: :func:`match` (detections, baselines, tracks, and boxes and masks that a user gave as
prompts). From the pixels that two label images share: :func:`majority` (the Cell Tracking Challenge) and
:func:`best_of_each` (labels from frame to frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.labels import SharedPixels
from hela_store.images.rle import Rle, decode

Floats = npt.NDArray[np.float64]
LEAST_IOU = 0.1
"""IoU from which an object and a cell may be a pair: two objects that share less only touch."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Pairs of the rows and columns of a table of IoUs, one to one.

    Attributes
    ----------
    partner : int64, (rows,), column that each row is paired with, -1 for none
    iou : float64, (rows,), with it, 0 for none
    """

    partner: npt.NDArray[np.int64]
    iou: Floats


def match(ious: Floats, least: float = LEAST_IOU) -> Matched:
    """Match one to one: the assignment with the greatest total IoU (Kuhn 1955) of the pairs that share enough.

    A pair of less than ``least`` counts as nothing, so it can neither be made nor take a partner from a better pair.

    Parameters
    ----------
    ious : float64, (rows, columns)
    least : only an IoU of this or more, and above 0, makes a pair
    """
    allowed = (ious >= least) & (ious > 0)
    partner, iou = np.full(ious.shape[0], -1, np.int64), np.zeros(ious.shape[0])
    if allowed.any():
        rows, columns = linear_sum_assignment(np.where(allowed, ious, 0.0), maximize=True)
        good = allowed[rows, columns]
        partner[rows[good]], iou[rows[good]] = columns[good], ious[rows[good], columns[good]]
    return Matched(partner=partner, iou=iou)


def majority(pairs: SharedPixels) -> SharedPixels:
    """Match each first object with the second one that holds more than half of it, as the challenge does for SEG.

    A second object may be matched by several first ones; a first one never has two.
    """
    return pairs.take(2 * pairs.shared > pairs.first_areas[pairs.first])


def best_of_each(pairs: SharedPixels) -> SharedPixels:
    """Match each first object with the second one of greatest IoU, of equals with that of the smaller label.

    Not one to one: several first objects may be given the same second one.
    """
    order = np.lexsort((pairs.second, -pairs.ious, pairs.first))
    return pairs.take(order[np.unique(pairs.first[order], return_index=True)[1]])


def mask_ious(masks: Sequence[Rle | None], label: LabelArray, labels: Sequence[int]) -> Floats:
    """Return the IoU of each mask with each cell of a label image, float64, (masks, cells).

    Parameters
    ----------
    masks : of the frame; None has IoU 0 with everything
    label : integer, (row, col)
    labels : values of the cells
    """
    out = np.zeros((len(masks), len(labels)))
    if not len(labels):
        return out
    place = {int(value): i for i, value in enumerate(labels)}
    values, counts = np.unique(label, return_counts=True)
    area = dict(zip(values.tolist(), counts.tolist(), strict=True))
    for i, rle in enumerate(masks):
        if rle is None:
            continue
        mask, (x, y) = decode(rle, label.shape)
        size = int(mask.sum())
        under, shared = np.unique(label[y : y + mask.shape[0], x : x + mask.shape[1]][mask], return_counts=True)
        for value, pixels in zip(under.tolist(), shared.tolist(), strict=True):
            if value in place:
                out[i, place[value]] = pixels / (size + area[value] - pixels)
    return out


def countable(boxes: Floats, valid: BoolArray) -> BoolArray:
    """Return which boxes can be false: at least half of each is valid pixels (rule "valid pixels"); bool, (N,)."""
    total = np.zeros((valid.shape[0] + 1, valid.shape[1] + 1), np.int64)
    total[1:, 1:] = valid.cumsum(0).cumsum(1)
    low = np.floor(boxes[:, :2]).astype(int).clip(0)
    high = np.ceil(boxes[:, 2:]).astype(int)
    x0, y0 = low.T
    x1, y1 = high[:, 0].clip(0, valid.shape[1]), high[:, 1].clip(0, valid.shape[0])
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    area = (high - low).prod(1)
    counted: BoolArray = 2 * inside >= area
    return counted
