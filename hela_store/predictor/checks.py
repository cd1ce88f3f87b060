"""Check what callers hand in: images of any type that are grey, prompts that lie in the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import FloatArray
from hela_store.errors import DatasetError, PromptError

COLOURS = (3, 4)
SPARE = 0.25
"""Share of its side by which a box may reach over the frame's edge, as boxes that were jittered do."""
LABELS = (-1, 0, 1)


def grey_image(image: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an image as uint8, uint16 or float32, (row, col).

    Grey pixels that are repeated in three channels, as tools for photographs want them, count as grey. Integers outside
    0..65535 and other floats become float32.

    Raises
    ------
    DatasetError
        It has colours, more than two axes, no pixels, NaN or infinite values, or is no array of numbers.
    """
    array = np.asarray(image)
    if array.dtype.kind not in "uibf":
        raise DatasetError(f"the image has values of type {array.dtype}, expected integers or floats, (row, col)")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] in COLOURS:
        if any((array[..., 0] != array[..., channel]).any() for channel in (1, 2)):
            raise DatasetError(
                f"the image has {array.shape[2]} channels that differ, expected one grey plane (row, col); choose a "
                "channel, image[..., 0], or take their mean, image[..., :3].mean(-1)"
            )
        array = array[..., 0]
    if array.ndim != 2:
        raise DatasetError(
            f"the image has shape {array.shape}, expected one grey plane (row, col); give the planes of a stack one "
            "after another, such as image[0]"
        )
    if not array.size:
        raise DatasetError(f"the image has shape {array.shape}, expected at least one pixel")
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise DatasetError(f"{bad} pixels are NaN or infinite, expected finite counts; replace them, np.nan_to_num")
        return array.astype(np.float32, copy=False)
    if array.dtype.kind == "b" or array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    fits = array.dtype == np.uint16 or (array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max)
    return array.astype(np.uint16 if fits else np.float32, copy=False)


def checked_boxes(boxes: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Return boxes as float64, (N, 4) ``(x0, y0, x1, y1)`` px, frame, x1 and y1 exclusive.

    Parameters
    ----------
    boxes : (N, 4) or (4,)
    shape : (rows, cols) of the frame, px

    Raises
    ------
    PromptError
        Another shape, not finite, without extent, or outside of the frame.
    """
    array = np.asarray(boxes, float)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.shape[-1] != 4 or array.ndim > 2:
        raise PromptError(f"boxes have shape {array.shape}, expected (N, 4), each (x0, y0, x1, y1) px")
    array = array.reshape(-1, 4)
    inside = _inside(array, shape)
    for number in np.flatnonzero(~inside)[:1]:
        box = array[number]
        rows, cols = shape
        found = f"box {number} is ({', '.join(f'{v:g}' for v in box)}) in a frame of {rows} rows and {cols} columns"
        swapped = bool(_inside(box[None, [1, 0, 3, 2]], shape)[0])
        hint = "; in (row, col) order it would fit: swap to box[[1, 0, 3, 2]]" if swapped else ""
        raise PromptError(f"{found}, expected (x0, y0, x1, y1) px with x0 < x1 and y0 < y1 inside of the frame{hint}")
    return array


def _inside(boxes: FloatArray, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    low, high = boxes[:, :2], boxes[:, 2:]
    spare = SPARE * (high - low)
    limit = np.array([shape[1], shape[0]], float)
    with np.errstate(invalid="ignore"):
        right = (high > low) & (low >= -spare) & (high <= limit + spare)
    return np.asarray(np.isfinite(boxes).all(1) & right.all(1))


def checked_points(points: npt.ArrayLike, labels: npt.ArrayLike | None, shape: tuple[int, int]) -> None:
    """Check clicks, (..., 2) ``(x, y)`` px, frame, and their labels, (...).

    Raises
    ------
    PromptError
        Another shape, no label for each, a label that is none, or a click outside of the frame.
    """
    array = np.asarray(points, float)
    if array.ndim < 2 or array.shape[-1] != 2 or not array.size:
        raise PromptError(f"points have shape {array.shape}, expected (N, 2), each (x, y) px")
    if labels is None:
        raise PromptError(f"{array.shape[-2]} points without point_labels, expected 1 (cell) or 0 (background) each")
    values = np.asarray(labels)
    if values.shape != array.shape[:-1]:
        raise PromptError(f"point_labels have shape {values.shape}, expected {array.shape[:-1]}, one for each point")
    if not np.isin(values, LABELS).all():
        wrong = values[~np.isin(values, LABELS)].flat[0]
        raise PromptError(f"a point has label {wrong}, expected 1 (cell) or 0 (background)")
    limit = np.array([shape[1], shape[0]], float) - 0.5
    given = array[values != -1]
    with np.errstate(invalid="ignore"):
        outside = given[~((given >= -0.5) & (given <= limit + 0.5)).all(-1)]
    if len(outside):
        x, y = outside[0]
        swapped = -0.5 <= y <= limit[0] and -0.5 <= x <= limit[1]
        hint = "; in (row, col) order it would fit: swap to points[:, ::-1]" if swapped else ""
        raise PromptError(
            f"a point is ({x:g}, {y:g}) in a frame of {shape[0]} rows and {shape[1]} columns, expected (x, y) px "
            f"inside of it{hint}"
        )
