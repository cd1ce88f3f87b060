"""Make what the head should say of a view from its labels. NumPy only; see also :mod:`hela_store.detection.head`."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
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
Point = npt.NDArray[np.float64]


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


def view_targets(
    label: LabelArray,
    valid: BoolArray,
    cells: Sequence[CellBox],
    rect: Rect,
    clicks: MutableMapping[CellBox, Point] | None = None,
) -> Targets:
    """Make the targets of a view.

    Parameters
    ----------
    label : int32, (row, col)
        The whole frame's.
    valid : bool, (row, col)
        Where labels say something; the whole frame's.
    cells : of the frame
    rect : (x0, y0, width, height) px, frame
    clicks : mapping of CellBox to float64, (2,) ``(x, y)`` px, frame
        Where these cells are clicked, as earlier calls on the same labels found it; what this one finds is added.
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
    out = _empty_targets(labels, known, whole)
    pitch, members, clicks = position_px(rect), _members(labels), {} if clicks is None else clicks
    nowhere = np.zeros((2, 0), np.int64)
    for i, cell in enumerate(whole):
        out.boxes[i] = (np.array(cell.box, float) - [left, top, left, top]) / pitch
        if cell not in clicks:
            crop = label[cell.y0 : cell.y1, cell.x0 : cell.x1] == cell.label
            clicks[cell] = centre_point(crop) + [cell.x0, cell.y0]
        point = (clicks[cell] - [left, top] + 0.5) / pitch
        _paint(out, members.get(cell.label, nowhere), out.boxes[i], point)
    return out


def _empty_targets(labels: npt.NDArray[np.int64], known: BoolArray, whole: Sequence[CellBox]) -> Targets:
    """Return the targets of a view before any cell is painted; ``whole`` are the cells that it holds whole."""
    cut = (labels > 0) & ~np.isin(labels, [c.label for c in whole])
    return Targets(
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


def _members(labels: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.int64]]:
    """Return rows and columns, int64 (2, n), of the positions of each label."""
    places = np.stack(np.nonzero(labels))
    values = labels[places[0], places[1]]
    order = np.argsort(values, kind="stable")
    found, begins = np.unique(values[order], return_index=True)
    parts = np.split(places[:, order], begins[1:], axis=1)
    return dict(zip(found.tolist(), parts, strict=False))


def _paint(out: Targets, member: npt.NDArray[np.int64], box: Floats, point: Point) -> None:
    """Add one cell, whose positions are ``member``; ``box`` and ``point`` in positions, edges of the grid at 0."""
    middle = (box[:2] + box[2:]) / 2
    extent = np.maximum(box[2:] - box[:2], 1e-3)
    sigma = float(np.clip(SPREAD * math.sqrt(extent[0] * extent[1]), *SPREAD_LIMITS))
    col, row = (int(min(max(math.floor(v), 0), HEAD_POSITIONS - 1)) for v in middle)
    reach = math.ceil(3 * sigma)
    r, c = slice(max(row - reach, 0), row + reach + 1), slice(max(col - reach, 0), col + reach + 1)
    y = np.arange(r.start, min(r.stop, HEAD_POSITIONS))[:, None]
    x = np.arange(c.start, min(c.stop, HEAD_POSITIONS))
    bump = np.exp(-((x - col) ** 2 + (y - row) ** 2) / (2 * sigma**2)).astype(np.float32)
    np.maximum(out.centre[r, c], bump, out=out.centre[r, c])
    out.counted[row, col] = True

    here = np.array([[row], [col]])
    rows, columns = np.concatenate([member[:, (np.abs(member - here) <= NEAR).all(0)], here], axis=1)
    out.size[:, rows, columns] = np.log(extent)[:, None]
    out.has_size[rows, columns] = True
    out.click[:, rows, columns] = np.stack([point[0] - columns - 0.5, point[1] - rows - 0.5])
    rows, columns = np.concatenate([member, here], axis=1)
    out.offset[:, rows, columns] = np.stack([middle[0] - columns - 0.5, middle[1] - rows - 0.5])
    out.has_offset[rows, columns] = True
