"""Boxes ``(x0, y0, x1, y1)`` px: their overlap and their one-to-one assignment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BOX_COLUMNS = ("x0", "y0", "x1", "y1")


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the IoU of each of (N, 4) boxes with each of (M, 4), ``(x0, y0, x1, y1)``: float64, (N, M)."""
    first = np.asarray(a, float).reshape(-1, 1, 4)
    second = np.asarray(b, float).reshape(1, -1, 4)
    extent = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = extent.clip(0).prod(-1)
    total = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - shared
    result: npt.NDArray[np.float64] = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return result


def match_boxes(boxes: npt.ArrayLike, cell_boxes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Match boxes to the cells of a frame one to one, greedily by box IoU.

    The best pair of all comes first, then the best of what is left: a box whose cell goes to a better box may get
    its second best.

    Parameters
    ----------
    boxes : (N, 4) float, ``(x0, y0, x1, y1)`` px, frame
    cell_boxes : (M, 4) float, the same

    Returns
    -------
    int64, (N,)
        Index into ``cell_boxes``, -1 where nothing overlaps.
    """
    scores = box_iou(boxes, cell_boxes)
    matched = np.full(scores.shape[0], -1, np.int64)
    # stable: ties go to the earlier box, then to the earlier cell
    for flat in np.argsort(-scores, axis=None, kind="stable"):
        box, cell = divmod(int(flat), scores.shape[1])
        if scores[box, cell] <= 0:
            break
        if matched[box] < 0 and cell not in matched:
            matched[box] = cell
    return matched
