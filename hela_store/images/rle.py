"""Masks as COCO run-length codes in frame coordinates, by pycocotools, and as crops with an origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco
from scipy import ndimage

from hela_store.base.aliases import BoolArray
from hela_store.errors import RunError

MOST_SHIFT = 60
"""Bits of the largest run that is read; of more, Python would make numbers of any length."""


@dataclass(frozen=True, kw_only=True)
class Rle:
    """One mask of a frame.

    Attributes
    ----------
    counts : str
        COCO's compressed counts (column-major runs, LEB128-like), as pycocotools writes them.
    height, width : int
        Size of the frame, px.
    """

    counts: str
    height: int
    width: int


def encode(mask: BoolArray, origin: tuple[int, int], frame_shape: tuple[int, int]) -> Rle:
    """Encode a crop as a mask of its frame, without building the frame.

    Parameters
    ----------
    mask : bool, (row, col)
        May be empty; what lies beyond the frame is dropped.
    origin : (int, int)
        ``(x, y)`` px, frame, of the crop's first pixel; may be negative.
    frame_shape : (int, int)
        ``(rows, cols)`` of the frame, px.
    """
    height, width = frame_shape
    x0, y0 = max(origin[0], 0), max(origin[1], 0)
    inside = mask[y0 - origin[1] : max(height - origin[1], 0), x0 - origin[0] : max(width - origin[0], 0)]
    padded = np.zeros((inside.shape[1], inside.shape[0] + 2), np.int8)
    padded[:, 1:-1] = inside.T
    columns, rows = np.nonzero(np.diff(padded, axis=1))
    edges = (x0 + columns) * height + y0 + rows
    # a run that ends at the foot of a column goes on at the head of the next: two equal edges that are none
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return Rle(counts=packed["counts"].decode("ascii"), height=height, width=width)


def decode_crop(counts: str, height: int, width: int) -> tuple[BoolArray, tuple[int, int]]:
    """Decode a mask into the smallest crop that holds it, without building the frame.

    Parameters
    ----------
    counts : str
        As in :class:`Rle`.
    height, width : int
        Size of the frame, px: that of its image, never what stands beside the code, which bounds nothing.

    Returns
    -------
    mask : bool, (row, col)
        Of shape (0, 0) if the mask is empty.
    origin : (int, int)
        ``(x, y)`` px, frame.

    Raises
    ------
    RunError
        The counts are no such code, or belong to a frame of another size.
    """
    found = _runs(counts, height * width)
    if found is None or sum(found) != height * width:
        raise RunError(
            f"run-length code {counts[:20]!r}... does not fit a frame of {height} x {width} px; is it damaged?"
        )
    runs = np.asarray(found, np.int64)
    edges = np.cumsum(runs)
    starts, stops = edges[0 : len(edges) - 1 : 2], edges[1::2]
    if not len(starts):
        return np.zeros((0, 0), np.bool_), (0, 0)
    x0, x1 = int(starts[0]) // height, (int(stops[-1]) - 1) // height + 1
    # within these columns: what of the first run of background lies in them, and nothing of the last
    lengths = np.diff(edges[: 2 * len(starts)], prepend=x0 * height, append=x1 * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(x1 - x0, height)
    return trim(columns.T, (x0, 0))


def _runs(counts: str, most: int) -> list[int] | None:
    """Read COCO's counts (``rleFrString``): 5 bits a character, least first; the fourth run on are differences.

    None if a run is negative or longer than ``most`` pixels, if there are more runs than that, or the code is cut.

    Here and not by pycocotools, whose decoder only gives whole frames and warns under NumPy 2.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii", "replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > MOST_SHIFT:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        value += runs[-2] if len(runs) > 2 else 0
        if not 0 <= value <= most or len(runs) > most:
            return None
        runs.append(value)
        value = shift = 0
    return None if shift else runs


def decode(rle: Rle, frame_shape: tuple[int, ...]) -> tuple[BoolArray, tuple[int, int]]:
    """Decode a mask of a frame of ``(rows, cols)`` px; result and errors as :func:`decode_crop`."""
    if (rle.height, rle.width) != tuple(frame_shape):
        size, found = f"{frame_shape[0]} x {frame_shape[1]}", f"{rle.height} x {rle.width}"
        raise RunError(f"a mask is of a frame of {found} px, expected {size}; is it damaged, or another frame's?")
    return decode_crop(rle.counts, rle.height, rle.width)


def largest_piece(mask: BoolArray, within: BoolArray | None = None) -> BoolArray:
    """Return a mask's 4-connected piece with most pixels ``within``, or of all where it has none there.

    Pieces of one size: the first in reading order. A mask of one piece, or of none, comes back as it is.

    Parameters
    ----------
    mask, within : bool, (row, col)
    """
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.zeros(0) if within is None else np.bincount(pieces[within])[1:]
    if not sizes.any():
        sizes = np.bincount(pieces.ravel())[1:]
    kept: BoolArray = pieces == int(sizes.argmax()) + 1
    return kept


def filled(mask: BoolArray) -> BoolArray:
    """Return a mask without holes: background that is 8-connected to no border of the crop becomes cell."""
    outside, count = ndimage.label(np.pad(~mask, 1, constant_values=True), structure=np.ones((3, 3), int))
    return outside[1:-1, 1:-1] != outside[0, 0] if count > 1 else mask


def bbox(mask: BoolArray, origin: tuple[int, int] = (0, 0)) -> tuple[int, int, int, int]:
    """Return ``(x0, y0, x1, y1)`` px, frame, x1 and y1 exclusive; of an empty mask a box of no size at its origin."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    x, y = origin
    if not len(columns):
        return x, y, x, y
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


def paste(mask: BoolArray, origin: tuple[int, int], shape: tuple[int, int], corner: tuple[int, int]) -> BoolArray:
    """Return a mask as a part of its frame: of ``shape`` (rows, cols), its upper left at ``corner``, ``(x, y)`` px.

    Parameters
    ----------
    mask : bool, (row, col)
        A crop of the frame with its first pixel at ``origin``; what lies beyond the part is dropped.
    """
    out = np.zeros(shape, bool)
    x, y = origin[0] - corner[0], origin[1] - corner[1]
    inside = mask[max(-y, 0) : max(shape[0] - y, 0), max(-x, 0) : max(shape[1] - x, 0)]
    rows, columns = inside.shape
    out[max(y, 0) : max(y, 0) + rows, max(x, 0) : max(x, 0) + columns] = inside
    return out


def trim(mask: BoolArray, origin: tuple[int, int] = (0, 0)) -> tuple[BoolArray, tuple[int, int]]:
    """Return the smallest crop that holds the mask, and its origin ``(x, y)`` px, frame."""
    x0, y0, x1, y1 = bbox(mask)
    return np.ascontiguousarray(mask[y0:y1, x0:x1]), (origin[0] + x0, origin[1] + y0)
