"""Labels through a warp: every pixel takes the label that holds most of its surroundings, so ids never mix.

Sampling ids bilinearly would make new ones between two cells; the nearest id gives ragged outlines. Here every label
has a soft mask, cubic B-spline weights over the 4 x 4 pixels around the place, and the largest wins, background among
them: two cells that touch keep touching, two that do not stay apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray

Floats = npt.NDArray[np.floating]

TAPS = 4


def warp_labels(label: LabelArray, x: Floats, y: Floats) -> npt.NDArray[np.int32]:
    """Sample a label image.

    Parameters
    ----------
    label : integer, (row, col)
    x, y : float, (row, col)
        Where each pixel of the result lies in ``label``, px.

    Returns
    -------
    int32, (row, col)
        0 beyond the image.
    """
    height, width = label.shape
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    out = label.ravel().take(pixel_index(x, y, label.shape)).astype(np.int32)
    floor = np.clip(row, 0, height - 1) * np.int32(width) + np.clip(column, 0, width - 1)
    mixed = np.flatnonzero(_is_mixed(label).ravel().take(floor) & inside)
    columns, rows = column.ravel()[mixed], row.ravel()[mixed]
    parts = (x.ravel()[mixed] - columns, y.ravel()[mixed] - rows)
    out.ravel()[mixed] = _vote(*_surroundings(label, columns, rows, parts))
    out[~inside] = 0
    return out


def pixel_index(x: Floats, y: Floats, shape_rc: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return the flat index of the pixel nearest to each place, within the image."""
    row = np.clip(np.rint(y).astype(np.int32), 0, shape_rc[0] - 1)
    column = np.clip(np.rint(x).astype(np.int32), 0, shape_rc[1] - 1)
    index: npt.NDArray[np.int32] = row * np.int32(shape_rc[1]) + column
    return index


def _is_mixed(label: LabelArray) -> BoolArray:
    """Whether the 4 x 4 pixels from (-1, -1) to (2, 2) around each one hold more than one label."""
    padded = np.pad(label, ((1, 2), (1, 2)), mode="edge")
    steps = np.zeros(padded.shape, bool)
    steps[:, :-1] |= padded[:, 1:] != padded[:, :-1]
    steps[:-1] |= padded[1:] != padded[:-1]
    height, width = label.shape
    # a few pixels too many where the step lies on the rim of the 16; they vote and stay what they are
    rows = steps[0:height] | steps[1 : height + 1] | steps[2 : height + 2] | steps[3 : height + 3]
    return rows[:, 0:width] | rows[:, 1 : width + 1] | rows[:, 2 : width + 2] | rows[:, 3 : width + 3]


def _surroundings(
    label: LabelArray, column: npt.NDArray[np.int32], row: npt.NDArray[np.int32], part_xy: tuple[Floats, Floats]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the 16 labels around each place and their weights, (16, N)."""
    height, width = label.shape
    across, down = (_spline(part.astype(np.float32)) for part in part_xy)
    offsets = np.arange(TAPS, dtype=np.int32)[:, None] - np.int32(1)
    rows = np.clip(row + offsets, 0, height - 1) * np.int32(width)
    columns = np.clip(column + offsets, 0, width - 1)
    ids = label.ravel().take((rows[:, None] + columns[None]).reshape(TAPS * TAPS, -1)).astype(np.int32)
    return ids, (down[:, None] * across[None]).reshape(TAPS * TAPS, -1)


def _vote(ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return the id that has most of the weight, (N,)."""
    low, high = ids.min(axis=0), ids.max(axis=0)
    is_high = ids == high
    best = np.where((weights * is_high).sum(axis=0) > 0.5, high, low)
    several = np.flatnonzero(~(is_high | (ids == low)).all(axis=0))
    if len(several):
        ids, weights = ids[:, several], weights[:, several]
        winner, most = ids[0].copy(), np.full(len(several), -1.0, np.float32)
        for one in ids:
            held = (weights * (ids == one)).sum(axis=0)
            more = held > most
            winner[more], most[more] = one[more], held[more]
        best[several] = winner
    return best


def _spline(t: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cubic B-spline's weights of the four places around ``t`` in 0..1, (4, N)."""
    s = 1 - t
    weights = (s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3)
    return (np.stack(weights) / 6).astype(np.float32)


def fragments(warped: npt.NDArray[np.int32], label: LabelArray, shown: Floats, keep: float) -> BoolArray:
    """Find the cells of which a view shows less than a share.

    Parameters
    ----------
    warped : int32, (row, col)
        The view's labels.
    label : integer, (row, col)
        The whole frame's.
    shown : float
        Frame px^2 under each pixel of the view that has a label, in their order.
    keep : float
        Least share of a cell's area.

    Returns
    -------
    bool, (row, col)
        Their pixels in the view.
    """
    ids = warped.ravel()
    area = np.bincount(ids[ids > 0], shown, minlength=1)
    whole = np.bincount(label.ravel(), minlength=len(area))[: len(area)]
    lost = (area > 0) & (area < keep * whole)
    return lost[warped] if lost.any() else np.zeros(warped.shape, bool)


def view_cells(label: LabelArray) -> list[dict[str, Any]]:
    """Measure the cells of a view from its labels.

    Returns
    -------
    list of dict
        In order of ``label``: that, ``area`` px, box ``x0, y0, x1, y1`` (exclusive), centroid ``cx, cy``; px, view.
    """
    boxes = ndimage.find_objects(np.asarray(label, np.int32))
    found = []
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        rows, columns = np.nonzero(label[box] == value)
        (top, left), (bottom, right) = (part.start for part in box), (part.stop for part in box)
        found.append(
            {
                "label": value,
                "area": len(rows),
                "x0": left,
                "y0": top,
                "x1": right,
                "y1": bottom,
                "cx": float(columns.mean() + left),
                "cy": float(rows.mean() + top),
            }
        )
    return found
