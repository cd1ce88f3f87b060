"""Pool the embedding of a view in the masks of its cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import FloatArray, LabelArray
from hela_store.evaluation.frames import FrameCells, Tile
from hela_store.images.geometry import EMBEDDING_POSITIONS, SAM_INPUT, Rect, holds_whole, scoring_tile, view_scale
from hela_store.store.records import CellBox, CellRecord

POSITIONS = EMBEDDING_POSITIONS**2
STEP = SAM_INPUT // EMBEDDING_POSITIONS
"""SAM input px that a position covers along each side."""

Vectors = npt.NDArray[np.float32]


def tile_of(frame: FrameCells, cell: CellRecord) -> Tile:
    """Return the tile in which a cell's box is most interior; where that shows no pixel of it, the tile with the most.

    Only a cell that is larger than a tile, or in pieces, can be without a pixel in the middle of its box.
    """
    best = frame.tiles[scoring_tile(cell.box, [tile.rect for tile in frame.tiles], frame.shape)]
    if holds_whole(cell.box, best.rect) or position_counts(frame.label, cell, best.rect).any():
        return best
    return max(frame.tiles, key=lambda tile: position_counts(frame.label, cell, tile.rect).sum())


def position_counts(label: LabelArray, cell: CellRecord | CellBox, rect: Rect) -> npt.NDArray[np.int64]:
    """Count the pixels of a cell at each position of a view's embedding.

    Parameters
    ----------
    label : ndarray of int, shape (row, col)
        The label image of the whole frame.
    cell : CellRecord
        The cell, with its box in frame px.
    rect : (x0, y0, width, height)
        The view, in frame px.

    Returns
    -------
    ndarray of int64, shape (4096,)
        Positions rows first. A pixel belongs to the position in which its centre lies.
    """
    left, top, width, height = rect
    x0, y0, x1, y1 = cell.box
    columns = np.arange(max(x0, left), min(x1, left + width))
    rows = np.arange(max(y0, top), min(y1, top + height))
    if not len(columns) or not len(rows):
        return np.zeros(POSITIONS, np.int64)
    inside = label[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == cell.label
    scale = view_scale(rect) / STEP
    across = ((columns - left + 0.5) * scale).astype(np.int64)
    down = ((rows - top + 0.5) * scale).astype(np.int64)
    places = down[:, None] * EMBEDDING_POSITIONS + across
    return np.bincount(places[inside], minlength=POSITIONS).astype(np.int64)


def pooled(embedding: FloatArray, rect: Rect, label: LabelArray, cells: Sequence[CellRecord | CellBox]) -> Vectors:
    """Return the mean of an embedding over the pixels of each cell that the view shows.

    Parameters
    ----------
    embedding : ndarray of float16 or float32, shape (256, 64, 64)
        The embedding of the view.
    rect : (x0, y0, width, height)
        The view, in frame px.
    label : ndarray of int, shape (row, col)
        The label image of the whole frame.
    cells : sequence of CellRecord
        Cells with at least one pixel in the view.

    Returns
    -------
    ndarray of float32, shape (n, 256)
        In the order of the cells.
    """
    counts = np.stack([position_counts(label, cell, rect) for cell in cells])
    used = np.flatnonzero(counts.any(0))  # cells cover a small part of a view, and the rest need not be converted
    weights = (counts[:, used] / counts.sum(1, keepdims=True)).astype(np.float32)
    values = embedding.reshape(len(embedding), POSITIONS)[:, used].astype(np.float32)
    found: Vectors = weights @ values.T
    return found
