"""Say where things are: tiles of a frame, views, SAM's input, and SAM's 256x256 mask grid. NumPy only.

Rectangles are ``(x0, y0, width, height)`` px, frame. Boxes are ``(x0, y0, x1, y1)`` with x1, y1 exclusive.
Points have pixel centres at integers, in frames as in SAM's input, so a pixel edge lies at -0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray, FloatArray

Rect = tuple[int, int, int, int]

SAM_INPUT = 1024
"""Edge length of SAM's input, px (Kirillov et al., "Segment Anything", 2023, section 3)."""
EMBEDDING_POSITIONS = 64
"""Positions of an embedding along the long side of a view."""
MASK_GRID = 256
"""Pixels of SAM's low-resolution mask along the long side of a view."""

AUTO_TILES = (0, 512, 384, 256)
"""What ``--tile auto`` chooses from, largest view first; 0 is the whole frame."""
AUTO_POSITIONS = 3.0
"""Embedding positions the median cell has to span."""
DEFAULT_OVERLAP = 64
"""Overlap of neighbouring tiles in px where there are no labels to measure cells on."""
OVERLAP_PERCENTILE = 99.9
_PROMPTS_AT_ONCE = 4096
"""Prompts whose distances to all tiles are held in memory together."""


def tile_rectangles(shape_rc: tuple[int, int], tile: int, overlap: int) -> list[Rect]:
    """Cover a frame with tiles, row by row from the upper left.

    Parameters
    ----------
    shape_rc : (int, int)
        Rows and columns of the frame, px.
    tile : int
        Edge length, px; 0 for one tile that is the whole frame. A side of the frame that is no longer than that is
        covered by one tile of the frame's own extent.
    overlap : int
        Least overlap of neighbours, px, below ``tile``.

    Returns
    -------
    list of (x0, y0, width, height)
        px, frame; equally spaced, the last tile of each row and column flush with the border.
    """
    rows, columns = (_cover(length, tile, overlap) for length in shape_rc)
    return [(x0, y0, width, height) for y0, height in rows for x0, width in columns]


def _cover(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    if tile == 0 or tile >= length:
        return [(0, length)]
    steps = math.ceil((length - tile) / (tile - overlap))
    return [(i * (length - tile) // steps, tile) for i in range(steps + 1)]


def scoring_tile(rect_xyxy: Sequence[float] | FloatArray, tiles: Sequence[Rect], frame_shape: tuple[int, int]) -> int:
    """Return the index of the tile in which one prompt is most interior, as :func:`scoring_tiles`."""
    return int(scoring_tiles(np.asarray(rect_xyxy), tiles, frame_shape)[0])


def scoring_tiles(
    rects_xyxy: npt.ArrayLike, tiles: Sequence[Rect], frame_shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Return the index of the tile in which each prompt is most interior, int64, (N,).

    The largest minimal distance from the prompt's rectangle to those tile edges that are not frame edges; ties go to
    the smaller index.

    Parameters
    ----------
    rects_xyxy : (N, 4), ``(x0, y0, x1, y1)`` px, frame
        What each *prompt* spans; a point is a rectangle of no extent.
    tiles : as :func:`tile_rectangles` returns them
    frame_shape : (int, int), rows and columns, px
    """
    prompts = np.asarray(rects_xyxy, dtype=float).reshape(-1, 4)
    height, width = frame_shape
    left, top, wide, high = np.asarray(tiles, dtype=float).T
    right, bottom = left + wide, top + high
    found = np.empty(len(prompts), np.int64)
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        x0, y0, x1, y1 = prompts[start : start + _PROMPTS_AT_ONCE].T[..., None]
        inside = np.where(left > 0, x0 - left, np.inf)
        inside = np.minimum(inside, np.where(top > 0, y0 - top, np.inf))
        inside = np.minimum(inside, np.where(right < width, right - x1, np.inf))
        inside = np.minimum(inside, np.where(bottom < height, bottom - y1, np.inf))
        found[start : start + _PROMPTS_AT_ONCE] = inside.argmax(1)
    return found


def holds_whole(rect_xyxy: Sequence[float] | FloatArray, tile: Rect) -> bool:
    """Whether a box (``(x0, y0, x1, y1)`` exclusive, px, frame) lies wholly in a tile."""
    x0, y0, x1, y1 = rect_xyxy
    left, top, width, height = tile
    return bool(x0 >= left and y0 >= top and x1 <= left + width and y1 <= top + height)


def to_view(xy: npt.ArrayLike, tile: Rect) -> FloatArray:
    """Bring points, (..., 2) ``(x, y)`` px, from frame to view."""
    return np.subtract(np.asarray(xy, dtype=float), np.asarray(tile[:2], dtype=float))


def view_scale(rect: Rect) -> float:
    """SAM input px per frame px: the view's long side becomes 1024."""
    return SAM_INPUT / max(rect[2], rect[3])


def resized_shape(shape_rc: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a view after the resize to SAM's input, before the padding; rounded as SAM rounds."""
    scale = SAM_INPUT / max(shape_rc)
    return int(shape_rc[0] * scale + 0.5), int(shape_rc[1] * scale + 0.5)


def frame_to_sam(xy_frame: npt.ArrayLike, rect: Rect) -> FloatArray:
    """Bring points, (..., 2) ``(x, y)``, pixel centres at integers, from frame px to the SAM input px of a view."""
    return (to_view(xy_frame, rect) + 0.5) * view_scale(rect) - 0.5


def sam_to_frame(xy_sam: npt.ArrayLike, rect: Rect) -> FloatArray:
    """Undo :func:`frame_to_sam`."""
    return (np.asarray(xy_sam, dtype=float) + 0.5) / view_scale(rect) - 0.5 + np.asarray(rect[:2], dtype=float)


def box_to_sam(box: npt.ArrayLike, rect: Rect) -> FloatArray:
    """Bring boxes, (..., 4) ``(x0, y0, x1, y1)`` exclusive px, frame, to the SAM input px of a view.

    The sides of a box are pixel edges, which SAM's input has at -0.5.
    """
    corner = np.asarray([rect[0], rect[1], rect[0], rect[1]], dtype=float)
    return (np.asarray(box, dtype=float) - corner) * view_scale(rect) - 0.5


def auto_tile(median_diameter: float | None, shape_rc: tuple[int, int]) -> int:
    """Choose the tile for a data set, px, 0 for whole frames.

    The largest view of none, 512, 384, 256 px in which the median cell spans at least 3 embedding positions; if there
    is none such, 256. Without labels 512 where the frame's long side is larger, else 0.

    Parameters
    ----------
    median_diameter : float or None
        Equivalent diameter of the median cell, px.
    shape_rc : (int, int)
        Rows and columns of the largest frame, px.
    """
    if median_diameter is None:
        return 512 if max(shape_rc) > 512 else 0
    usable = [tile for tile in AUTO_TILES if tile == 0 or tile < max(shape_rc)]
    for tile in usable:
        long_side = max(shape_rc) if tile == 0 else max(min(tile, length) for length in shape_rc)
        if median_diameter * EMBEDDING_POSITIONS / long_side >= AUTO_POSITIONS:
            return tile
    return usable[-1]


def overlap_for(extents: npt.ArrayLike, tile: int = 0) -> int:
    """Return how far tiles have to overlap so that nearly every cell is whole in one, px.

    Parameters
    ----------
    extents : (N,)
        Longer side of each cell's box, px; may be empty.
    tile : int
        Where given, the overlap is at most three quarters of it: beyond that the number of tiles explodes for the sake
        of a few merged labels.

    Returns
    -------
    int
        99.9th percentile, rounded up; 64 without cells.
    """
    values = np.asarray(extents, dtype=float)
    overlap = math.ceil(np.percentile(values, OVERLAP_PERCENTILE)) if values.size else DEFAULT_OVERLAP
    return min(overlap, tile * 3 // 4) if tile else overlap


def grid_round_trip(mask: BoolArray, rect: Rect, origin: tuple[int, int] | None = None) -> float:
    """Return what a mask's way through SAM's 256x256 grid costs: IoU of the mask with itself after the round trip.

    Each grid pixel holds the share of it that the mask covers; bilinear back to frame px, made binary at 0.5. A floor
    to be above, not a bound on a model, whose logits carry more than coverage (of signed distances 0.998 comes back).

    Parameters
    ----------
    mask : bool, (row, col)
        The cell, cropped from the frame.
    rect : (x0, y0, width, height) px, frame
        The view.
    origin : (int, int)
        ``(x, y)`` px, frame, of the crop's first pixel; the view's corner where None.
    """
    area = int(mask.sum())
    if area == 0:
        return 0.0
    step = max(rect[2], rect[3]) / MASK_GRID
    margin = math.ceil(2 * step) + 1
    x, y = (0, 0) if origin is None else (origin[0] - rect[0], origin[1] - rect[1])
    padded = np.pad(mask, margin).astype(float)
    down_r, up_r = _grid_weights(y - margin, padded.shape[0], step)
    down_c, up_c = _grid_weights(x - margin, padded.shape[1], step)
    back = up_r @ (down_r @ padded @ down_c.T) @ up_c.T > 0.5
    inside = int(np.count_nonzero(back & (padded > 0)))
    return inside / (area + int(np.count_nonzero(back)) - inside)


def _grid_weights(start: int, length: int, step: float) -> tuple[FloatArray, FloatArray]:
    """Return area weights (grid, px) and bilinear weights (px, grid) for px ``start`` to ``start + length``."""
    first = math.floor(start / step) - 1
    count = math.ceil((start + length) / step) + 1 - first
    edges = (first + np.arange(count + 1)) * step
    pixels = start + np.arange(length)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    down = np.clip(shared, 0, None) / step
    position = (pixels + 0.5) / step - 0.5 - first
    up = np.clip(1 - np.abs(position[:, None] - np.arange(count)), 0, None)
    return down, up
