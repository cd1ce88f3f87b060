"""Pool the embedding of a view in the masks of its cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from hela_store.base.aliases import FloatArray, LabelArray
from hela_store.evaluation.frames import FrameCells, Tile
from hela_store.images.geometry import EMBEDDING_POSITIONS, SAM_INPUT, Rect, holds_whole, scoring_tiles, view_scale
from hela_store.images.labels import compact
from hela_store.store.records import CellBox, CellRecord

POSITIONS = EMBEDDING_POSITIONS**2
STEP = SAM_INPUT // EMBEDDING_POSITIONS
"""SAM input px that a position covers along each side."""

Vectors = npt.NDArray[np.float32]


def by_tile(frame: FrameCells, cells: Sequence[CellRecord]) -> dict[Tile, list[CellRecord]]:
    """Return the cells by the tile that each is read from: the one in which its box is most interior.

    Only a cell that is larger than a tile, or in pieces, can be without a pixel there; it is read from the tile that
    shows the most pixels of it.
    """
    rects = [tile.rect for tile in frame.tiles]
    homes = scoring_tiles([cell.box for cell in cells], rects, frame.shape)
    found: dict[Tile, list[CellRecord]] = {}
    for cell, home in zip(cells, homes.tolist(), strict=True):
        best = frame.tiles[home]
        if not holds_whole(cell.box, best.rect) and not position_counts(frame.label, [cell], best.rect).nnz:
            best = max(frame.tiles, key=lambda tile: position_counts(frame.label, [cell], tile.rect).sum())
        found.setdefault(best, []).append(cell)
    return found


def position_counts(label: LabelArray, cells: Sequence[CellRecord | CellBox], rect: Rect) -> sparse.csr_array:
    """Count the pixels of each cell at each position of a view's embedding.

    Parameters
    ----------
    label : ndarray of int, shape (row, col)
        The label image of the whole frame.
    cells : sequence of CellRecord
        The cells, with their labels and their bounding boxes in frame px.
    rect : (x0, y0, width, height)
        The view, in frame px.

    Returns
    -------
    csr_array of int64, shape (n, 4096)
        Positions rows first. A pixel belongs to the position in which its centre lies.
    """
    left, top, width, height = rect
    boxes = np.array([cell.box for cell in cells])
    x0, y0 = np.maximum(boxes[:, :2].min(0), (left, top)).tolist()
    x1, y1 = np.minimum(boxes[:, 2:].max(0), (left + width, top + height)).tolist()
    part = np.ascontiguousarray(label[y0 : max(y0, y1), x0 : max(x0, x1)])
    scale = view_scale(rect) / STEP
    across = ((np.arange(x0 - left, x0 - left + part.shape[1]) + 0.5) * scale).astype(np.int16)
    down = ((np.arange(y0 - top, y0 - top + part.shape[0]) + 0.5) * scale).astype(np.int16)
    position = np.add.outer(down * EMBEDDING_POSITIONS, across)
    ids, index = compact(part)
    first = np.full(len(ids), len(cells) * POSITIONS)
    asked = np.array([cell.label for cell in cells])
    place = np.searchsorted(ids, asked)
    shown = ids[place.clip(max=len(ids) - 1)] == asked
    first[place[shown]] = np.flatnonzero(shown) * POSITIONS
    pixels = np.flatnonzero(part != 0)
    at = first.take(index.take(pixels)) + position.take(pixels)
    counts = np.bincount(at, minlength=(len(cells) + 1) * POSITIONS)[: len(cells) * POSITIONS]
    found = np.flatnonzero(counts != 0)
    starts = np.searchsorted(found, np.arange(len(cells) + 1) * POSITIONS)
    return sparse.csr_array((counts[found], found % POSITIONS, starts), shape=(len(cells), POSITIONS))


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
    counts = position_counts(label, cells, rect)
    used, column = np.unique(counts.indices, return_inverse=True)  # cells cover a small part of a view
    weights = sparse.csr_array((counts.data.astype(np.float32), column, counts.indptr), shape=(len(cells), len(used)))
    values = np.take(embedding.reshape(len(embedding), POSITIONS), used, axis=1)
    # PyTorch widens float16 about fifteen times faster than NumPy
    found: Vectors = (weights @ torch.from_numpy(values).float().numpy().T) / counts.sum(1, dtype=np.float32)[:, None]
    return found
