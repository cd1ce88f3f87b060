"""Make what the head should say of a view from its labels. NumPy only; see also :mod:`hela_store.detection.head`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.geometry import Rect, holds_whole
from hela_store.prompts.draw import centre_point

if TYPE_CHECKING:
    from hela_store.store.records import CellBox

HEAD_POSITIONS = 128
"""Positions of the head's grid along each side of SAM's input."""
SPREAD = 0.12
"""Standard deviation of a centre's bump, as a share of the box's side: narrow, because nuclei touch."""
SPREAD_LIMITS = (0.7, 3.0)
NEAR = 1
"""Positions around a centre, along each axis, that learn size and click point."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Truth of one view on the grid.

    Attributes
    ----------
    centre : float32, (H, W)
        1 at centres, falling off as a Gaussian.
    counted : bool, (H, W)
        Where a centre, or none, can be said to be right: valid pixels, but those of cells the view does not hold whole.
    inside, inside_counted : bool, (H, W)
        Position lies in a cell; it is a valid pixel.
    offset, size, click : float32, (2, H, W)
        As in :class:`hela_store.detection.head.HeadOutput`.
    has_offset, has_size : bool, (H, W)
        Where these are known.
    boxes : float32, (N, 4) ``(x0, y0, x1, y1)``
        Of whole cells, positions; an edge of the grid is at 0.
    """

    centre: Floats
    counted: BoolArray
    inside: BoolArray
    inside_counted: BoolArray
    offset: Floats
    size: Floats
    click: Floats
    has_offset: BoolArray
    has_size: BoolArray
    boxes: Floats


def position_px(rect: Rect) -> float:
    """Return how many frame px a position of the grid covers in a view."""
    return max(rect[2], rect[3]) / HEAD_POSITIONS


def grid_positions(rect: Rect) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows and columns, px of the view, of the positions' centres that lie in it."""
    place = ((np.arange(HEAD_POSITIONS) + 0.5) * position_px(rect)).astype(np.int64)
    return place[place < rect[3]], place[place < rect[2]]


def view_targets(label: LabelArray, valid: BoolArray, cells: Sequence[CellBox], rect: Rect) -> Targets:
    """Make the targets of a view.

    Parameters
    ----------
    label : int32, (row, col)
        The whole frame's.
    valid : bool, (row, col)
        Where labels say something; the whole frame's.
    cells : of the frame
    rect : (x0, y0, width, height) px, frame
    """
    left, top, width, height = rect
    rows, columns = grid_positions(rect)
    inner = np.ix_(rows, columns)
    shown = (slice(0, len(rows)), slice(0, len(columns)))
    labels = np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), np.int64)
    labels[shown] = label[top : top + height, left : left + width][inner]
    known = np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), bool)
    known[shown] = valid[top : top + height, left : left + width][inner]
    whole = [c for c in cells if holds_whole(c.box, rect)]
    cut = (labels > 0) & ~np.isin(labels, [c.label for c in whole])
    out = Targets(
        centre=np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), np.float32),
        counted=known & ~ndimage.binary_dilation(cut, iterations=1),
        inside=labels > 0,
        inside_counted=known,
        offset=np.zeros((2, HEAD_POSITIONS, HEAD_POSITIONS), np.float32),
        size=np.zeros((2, HEAD_POSITIONS, HEAD_POSITIONS), np.float32),
        click=np.zeros((2, HEAD_POSITIONS, HEAD_POSITIONS), np.float32),
        has_offset=np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), bool),
        has_size=np.zeros((HEAD_POSITIONS, HEAD_POSITIONS), bool),
        boxes=np.zeros((len(whole), 4), np.float32),
    )
    pitch = position_px(rect)
    for i, cell in enumerate(whole):
        box = np.array(cell.box, float)
        out.boxes[i] = (box - [left, top, left, top]) / pitch
        crop = label[cell.y0 : cell.y1, cell.x0 : cell.x1] == cell.label
        point = (centre_point(crop) + box[:2] - (left, top) + 0.5) / pitch
        _paint(out, labels == cell.label, out.boxes[i], point)
    return out


def _paint(out: Targets, member: BoolArray, box: Floats, point: npt.NDArray[np.float64]) -> None:
    """Add one cell; ``box`` and ``point`` in positions, edges of the grid at 0."""
    middle = (box[:2] + box[2:]) / 2
    extent = np.maximum(box[2:] - box[:2], 1e-3)
    sigma = float(np.clip(SPREAD * math.sqrt(extent[0] * extent[1]), *SPREAD_LIMITS))
    col, row = (int(min(max(math.floor(v), 0), HEAD_POSITIONS - 1)) for v in middle)
    reach = math.ceil(3 * sigma)
    r, c = slice(max(row - reach, 0), row + reach + 1), slice(max(col - reach, 0), col + reach + 1)
    y, x = np.mgrid[r.start : min(r.stop, HEAD_POSITIONS), c.start : min(c.stop, HEAD_POSITIONS)]
    bump = np.exp(-((x - col) ** 2 + (y - row) ** 2) / (2 * sigma**2)).astype(np.float32)
    np.maximum(out.centre[r, c], bump, out=out.centre[r, c])
    out.counted[row, col] = True

    r, c = slice(max(row - NEAR, 0), row + NEAR + 1), slice(max(col - NEAR, 0), col + NEAR + 1)
    near = np.zeros_like(member)
    near[r, c] = member[r, c]
    near[row, col] = True
    out.size[:, near] = np.log(extent)[:, None]
    out.has_size[near] = True
    rows, columns = np.nonzero(near)
    out.click[:, rows, columns] = np.stack([point[0] - columns - 0.5, point[1] - rows - 0.5])
    member = member | near
    rows, columns = np.nonzero(member)
    out.offset[:, rows, columns] = np.stack([middle[0] - columns - 0.5, middle[1] - rows - 0.5])
    out.has_offset[member] = True
