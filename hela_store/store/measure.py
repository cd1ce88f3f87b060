"""Measure cells: at ingest all of a frame, after a change of its labels those that changed."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import ndimage

from hela_store.datasets.frame import Frame
from hela_store.images.geometry import Rect, grid_round_trip, scoring_tiles
from hela_store.images.labels import compact

from .tables import CELLS_SCHEMA

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def measure_cells(
    frame: Frame, tiles: list[Rect], offset: float, only: tuple[Rect, Collection[int]] | None = None
) -> pa.Table:
    """Measure the cells of a frame.

    Parameters
    ----------
    frame : Frame
    tiles : list of (x0, y0, width, height)
        px, frame; as :func:`hela_store.images.geometry.tile_rectangles` gives them.
    offset : float
        Black level, counts; taken off the mean intensity.
    only : tuple of (x0, y0, width, height) and labels, optional
        Measures only these cells; the rectangle, px, frame, holds them whole and a pixel more on every side that is
        not the frame's. By default every cell is measured.

    Returns
    -------
    pyarrow.Table
        One row a cell in order of label, columns as `CELLS_SCHEMA`; no rows without labels. Boxes are
        ``x0, y0, x1, y1`` px, frame, exclusive at their end; centroids ``cx, cy`` px, frame. ``round_trip_iou`` is in
        the tile in which the cell's box is most interior.
    """
    if frame.label is None or not frame.label.any():
        return CELLS_SCHEMA.empty_table()
    shape = (frame.label.shape[0], frame.label.shape[1])
    x0, y0, width, height = (0, 0, shape[1], shape[0]) if only is None else only[0]
    part = np.s_[y0 : y0 + height, x0 : x0 + width]
    ids, index = compact(frame.label[part])
    rows, cols = np.nonzero(index)
    owner = index[rows, cols]
    area = np.bincount(owner, minlength=ids.size)
    present = np.flatnonzero(area)
    if only is not None:
        present = present[np.isin(ids[present], list(only[1]))]
    if not present.size:
        return CELLS_SCHEMA.empty_table()
    boxes = label_boxes(index, present) + (x0, y0, x0, y0)
    cx, cy, eccentricity = _moments(owner, cols + x0, rows + y0, area)
    light = np.bincount(owner, weights=frame.image[part][rows, cols].astype(np.float64), minlength=ids.size)
    squared = math.nan if frame.pixel_size_um is None else frame.pixel_size_um**2
    area = area[present]
    labels = ids[present]
    columns: dict[str, Any] = {
        "cell": [f"{frame.id}#{label}" for label in labels],
        "frame": [frame.id] * present.size,
        "label": labels,
        "area": area,
        "area_um2": pa.array(area * squared, from_pandas=True),
        "diameter": 2 * np.sqrt(area / math.pi),
        **dict(zip(("x0", "y0", "x1", "y1"), boxes.T, strict=True)),
        "cx": cx[present],
        "cy": cy[present],
        "eccentricity": eccentricity[present],
        "touches_neighbour": _touches_neighbour(index, ids.size)[present],
        "touches_border": (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == shape[::-1]).any(axis=1),
        "mean_intensity": light[present] / area - offset,
        "round_trip_iou": round_trips(frame.label, labels, boxes, tiles),
    }
    return pa.table(columns, schema=CELLS_SCHEMA)


def label_boxes(index: np.ndarray, present: Ints) -> Ints:
    """Return boxes, (cells, 4) ``x0, y0, x1, y1`` exclusive, of the label indices ``present``."""
    found = ndimage.find_objects(index, max_label=int(present[-1]))
    slices = [found[i - 1] for i in present]
    return np.array([(c.start, r.start, c.stop, r.stop) for r, c in slices], dtype=np.int64)


def _moments(owner: np.ndarray, x: Ints, y: Ints, area: Ints) -> tuple[Floats, Floats, Floats]:
    """Return centroids and eccentricities by label index.

    Eccentricity of the ellipse with the same second central moments: sqrt(1 - small / large eigenvalue).
    """
    count = np.maximum(area, 1)
    cx = np.bincount(owner, weights=x, minlength=area.size) / count
    cy = np.bincount(owner, weights=y, minlength=area.size) / count
    dx, dy = x - cx[owner], y - cy[owner]
    xx, yy, xy = (np.bincount(owner, weights=w, minlength=area.size) / count for w in (dx * dx, dy * dy, dx * dy))
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    large = middle + half
    ratio = np.divide(middle - half, large, out=np.ones_like(large), where=large > 0)
    return cx, cy, np.sqrt(np.clip(1 - ratio, 0, 1))


def _touches_neighbour(index: np.ndarray, count: int) -> Bools:
    """Return by label index whether another label is among the eight neighbours of any of its pixels."""
    touches = np.zeros(count, bool)
    for a, b in (
        (index[:, :-1], index[:, 1:]),
        (index[:-1], index[1:]),
        (index[:-1, :-1], index[1:, 1:]),
        (index[:-1, 1:], index[1:, :-1]),
    ):
        meet = (a != b) & (a > 0) & (b > 0)
        touches[a[meet]] = True
        touches[b[meet]] = True
    return touches


def round_trips(index: np.ndarray, present: Ints, boxes: Ints, tiles: list[Rect]) -> Floats:
    """Return for each cell the IoU of its mask with itself after SAM's 256x256 grid, in its most interior tile.

    Parameters
    ----------
    index : int, (row, col)
        Label image.
    present : (cells,)
        Its values to look at.
    boxes : (cells, 4)
        Their ``x0, y0, x1, y1`` px, frame, exclusive.
    tiles : list of (x0, y0, width, height), px, frame
    """
    shape = (index.shape[0], index.shape[1])
    scores = np.empty(present.size)
    homes = scoring_tiles(boxes, tiles, shape)
    for i, (value, box, home) in enumerate(zip(present, boxes.tolist(), homes, strict=True)):
        x0, y0, x1, y1 = box
        scores[i] = grid_round_trip(index[y0:y1, x0:x1] == value, tiles[home], (x0, y0))
    return scores
