"""Measure how large the cells of a store are for SAM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hela_store.images.geometry import EMBEDDING_POSITIONS, tile_rectangles
from hela_store.images.labels import compact
from hela_store.store.measure import label_boxes, round_trips

if TYPE_CHECKING:
    from hela_store.store.store import Store

SCALE_FRAMES = 12


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
            boxes, shape = label_boxes(index, present), (row["height"], row["width"])
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
