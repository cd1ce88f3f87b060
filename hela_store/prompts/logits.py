"""Binary masks on SAM's 256x256 grid, as the prompt encoder takes them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.images.geometry import MASK_GRID, Rect
from hela_store.images.rle import trim

# SAM's prompt encoder was trained on its own logits, whose magnitude is about 10 away from edges; SAM 2 gives mask
# inputs the same two values (sam2_base.py, `_use_mask_as_output`)
LOGIT = 10.0


def to_mask_logits(
    mask: BoolArray, origin: tuple[int, int], view: Rect, value: float = LOGIT
) -> npt.NDArray[np.float32]:
    """Bring a mask to SAM's grid of a view: two constant logits, so that no soft value tells where the edge was.

    A grid pixel is in the mask if at least half of its area is. A mask too small for that keeps the grid pixel of which
    it covers most; one that lies beyond the view, the nearest.

    Parameters
    ----------
    mask : bool, (row, col)
        Crop at frame resolution.
    origin : (int, int)
        ``(x, y)`` px, frame, of its first pixel.
    view : (x0, y0, width, height) px, frame
        Its long side becomes 256 grid pixels, its upper left corner the grid's.
    value : float
        Logit inside; outside, and where the view's padding is, it is ``-value``.

    Returns
    -------
    float32, (256, 256), (row, col)
    """
    step = max(view[2], view[3]) / MASK_GRID
    logits = np.full((MASK_GRID, MASK_GRID), -value, np.float32)
    if not mask.any():
        return logits
    mask, origin = trim(mask, origin)
    x, y = origin[0] - view[0], origin[1] - view[1]
    first_row, covered = _area_average(mask.astype(float), y, step, math.ceil(view[3] / step))
    first_column, covered = _area_average(covered.T, x, step, math.ceil(view[2] / step))
    covered = covered.T
    if covered.size and covered.max() > 0:
        inside = covered >= 0.5 - 1e-9
        if not inside.any():
            inside.flat[int(np.argmax(covered))] = True
        logits[first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]][inside] = value
        return logits
    rows, columns = np.nonzero(mask)
    row = min(max(int((y + rows.mean() + 0.5) / step), 0), math.ceil(view[3] / step) - 1)
    column = min(max(int((x + columns.mean() + 0.5) / step), 0), math.ceil(view[2] / step) - 1)
    logits[row, column] = value
    return logits


def _area_average(
    values: npt.NDArray[np.float64], start: int, step: float, end: int
) -> tuple[int, npt.NDArray[np.float64]]:
    """Average rows that begin at ``start`` px over grid pixels of ``step`` px; return the first of them, and averages.

    Grid pixels before 0 and from ``end`` on are left out.
    """
    length = len(values)
    first = min(max(math.floor(start / step), 0), end)
    stop = min(max(math.ceil((start + length) / step), first), end)
    edges = np.clip(np.arange(first, stop + 1) * step - start, 0, length)
    below = np.minimum(edges.astype(int), length - 1)
    weight = (edges - below)[:, None]
    # differences of the running sum, not a matrix product: its threads cost more than all else here
    running = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    return first, np.diff(running[below] * (1 - weight) + running[below + 1] * weight, axis=0) / step
