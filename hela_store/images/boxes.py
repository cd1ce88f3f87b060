"""Boxes ``(x0, y0, x1, y1)`` px and their overlap."""

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
