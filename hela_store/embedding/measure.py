"""Measure every cell at ingest, and how large the cells of a store are for SAM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import ndimage

from hela_store.datasets.frame import Frame
from hela_store.images.geometry import EMBEDDING_POSITIONS, Rect, grid_round_trip, scoring_tile, tile_rectangles
from hela_store.images.labels import compact
from hela_store.store.tables import CELLS_SCHEMA

if TYPE_CHECKING:
    from hela_store.store.store import Store

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SCALE_FRAMES = 12


def measure_cells(frame: Frame, tiles: list[Rect], offset: float) -> pa.Table:
    """Measure every cell of a frame.

    Parameters
    ----------
    frame : Frame
    tiles : list of (x0, y0, width, height)
        px, frame; as :func:`hela_store.images.geometry.tile_rectangles` gives them.
    offset : float
        Black level, counts; taken off the mean intensity.

    Returns
    -------
    pyarrow.Table
        One row a cell in order of label, columns as `CELLS_SCHEMA`; no rows without labels. Boxes are
        ``x0, y0, x1, y1`` px, frame, exclusive at their end; centroids ``cx, cy`` px, frame. ``round_trip_iou`` is in
        the tile in which the cell's box is most interior.
    """
    if frame.label is None or not frame.label.any():
        return CELLS_SCHEMA.empty_table()
    ids, index = compact(frame.label)
    rows, cols = np.nonzero(index)
    owner = index[rows, cols]
    area = np.bincount(owner, minlength=ids.size)
    present = np.flatnonzero(area)
    boxes = _boxes(index, present)
    cx, cy, eccentricity = _moments(owner, cols, rows, area)
    light = np.bincount(owner, weights=frame.image[rows, cols].astype(np.float64), minlength=ids.size)
    height, width = frame.label.shape
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
        "touches_border": (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2] == width) | (boxes[:, 3] == height),
        "mean_intensity": light[present] / area - offset,
        "round_trip_iou": round_trips(index, present, boxes, tiles),
    }
    return pa.table(columns, schema=CELLS_SCHEMA)


def _boxes(index: np.ndarray, present: Ints) -> Ints:
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
    for i, (value, box) in enumerate(zip(present, boxes.tolist(), strict=True)):
        x0, y0, x1, y1 = box
        tile = tiles[scoring_tile(box, tiles, shape)] if len(tiles) > 1 else tiles[0]
        scores[i] = grid_round_trip(index[y0:y1, x0:x1] == value, tile, (x0, y0))
    return scores


@dataclass(frozen=True, kw_only=True)
class CellScale:
    """Describe how large cells are for SAM, in whole frames and in the recipe's tiles.

    Attributes
    ----------
    frames, cells : int
        How many labelled frames, evenly spread, and cells in them this was measured on.
    tile : int
        Edge length of the recipe's tiles, px; 0 where views are whole frames, and then "tiled" equals "whole".
    diameter : float
        Median equivalent diameter, px.
    positions_whole, positions_tiled : float
        Median diameter in embedding positions, of 64 along a view's long side.
    round_trip_whole, round_trip_tiled : float
        Mean IoU of true masks with themselves after SAM's 256x256 grid.
    """

    frames: int
    cells: int
    tile: int
    diameter: float
    positions_whole: float
    positions_tiled: float
    round_trip_whole: float
    round_trip_tiled: float


def cell_scale(store: Store) -> CellScale | None:
    """Measure the grid round trip and cell sizes of a store on up to 12 of its labelled frames.

    Paired (the same cells whole and tiled), and with the tile the recipe has now. None where no frame has cells.
    """
    table = store.frames_table()
    frames = table.filter(table["has_label"])
    picked = np.unique(np.linspace(0, len(frames) - 1, min(SCALE_FRAMES, len(frames))).round().astype(int))
    views = store.recipe.views
    parts = []
    for row in frames.take(pa.array(picked)).to_pylist():
        _, index = compact(store.pixels.label(row["frame"]))
        area = np.bincount(index.ravel())
        present = np.flatnonzero(area[1:]) + 1
        if present.size:
            boxes, shape = _boxes(index, present), (row["height"], row["width"])
            whole, tiles = tile_rectangles(shape, 0, 0), tile_rectangles(shape, views.tile, views.overlap)
            trips = round_trips(index, present, boxes, whole)
            tiled = trips if len(tiles) == 1 else round_trips(index, present, boxes, tiles)
            across = 2 * np.sqrt(area[present] / math.pi)
            per_view = [across * EMBEDDING_POSITIONS / max(view[0][2:]) for view in (whole, tiles)]
            parts.append(np.stack([across, *per_view, trips, tiled]))
    if not parts:
        return None
    values = np.concatenate(parts, axis=1)
    diameter, positions, positions_tiled = (float(v) for v in np.median(values[:3], axis=1))
    return CellScale(
        frames=len(parts),
        cells=values.shape[1],
        tile=views.tile,
        diameter=diameter,
        positions_whole=positions,
        positions_tiled=positions_tiled,
        round_trip_whole=float(values[3].mean()),
        round_trip_tiled=float(values[4].mean()),
    )
