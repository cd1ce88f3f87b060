"""Ask a decoder for the mask token of cells: the vector from which it draws a cell's mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hela_store.base.aliases import FloatArray
from hela_store.images.geometry import Rect
from hela_store.prompts.prompt import Prompt
from hela_store.sam.decoder import SamDecoder, view_tokens
from hela_store.sam.predict import POSITIONS, sam_prompts, window_sizes
from hela_store.store.records import CellRecord

from .pool import Vectors


@torch.no_grad()
def mask_tokens(
    decoder: SamDecoder, embedding: FloatArray, rect: Rect, cells: Sequence[CellRecord], window: int
) -> Vectors:
    """Return the mask token of each cell of a view, asked with the cell's bounding box.

    Parameters
    ----------
    decoder : SamDecoder
        On the CPU.
    embedding : ndarray of float16 or float32, shape (256, 64, 64)
        The embedding of the view.
    rect : (x0, y0, width, height)
        The view, in frame px.
    cells : sequence of CellRecord
        Cells of the view, with their boxes in frame px.
    window : int
        Number of embedding positions along each side that a prompt reads at least.

    Returns
    -------
    ndarray of float32, shape (n, 256)
        In the order of the cells.
    """
    prompts = [Prompt(kind="box-exact", box=np.asarray(cell.box, float)) for cell in cells]
    sam, grid = sam_prompts(prompts, rect), view_tokens(torch.from_numpy(embedding))
    sizes, found = window_sizes(sam, window), np.empty((len(cells), grid.shape[1]), np.float32)
    for size in np.unique(sizes):
        index = np.flatnonzero(sizes == size)
        chunk = max(1, POSITIONS["cpu"] // int(size) ** 2)
        for start in range(0, len(index), chunk):
            part = index[start : start + chunk]
            found[part] = decoder.mask_tokens(grid, sam.take(torch.from_numpy(part)), int(size)).numpy()
    return found
