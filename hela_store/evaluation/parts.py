"""Parts of the scored cells, such as the smallest third or the touching ones, for tables that look for hard cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Rows = Mapping[str, npt.NDArray[Any]]
"""Columns of equal length, by name."""
Part = tuple[str, npt.NDArray[np.bool_]]
"""Name of a part, one of :data:`hela_store.evaluation.config.PARTS`, and which rows are in it."""

NEAREST = 3
"""Neighbours whose mean distance says how crowded the place of a cell is."""


def usual_parts(rows: Rows) -> list[Part]:
    """Return thirds by size and brightness of the cells, then touching, lone, bright-small and dim cells.

    Parameters
    ----------
    rows : columns ``cell``, ``area``, ``mean_intensity``, ``touches_neighbour``, ``is_bright_small`` and ``is_dim``;
        a cell may have several rows
    """
    touching = rows["touches_neighbour"].astype(bool)
    return [
        *_thirds(rows["area"], rows["cell"], ("small", "medium", "large")),
        *_thirds(rows["mean_intensity"], rows["cell"], ("dark", "middling", "bright")),
        ("touching", touching),
        ("alone", ~touching),
        ("bright-small", rows["is_bright_small"].astype(bool)),
        ("dim", rows["is_dim"].astype(bool)),
    ]


def more_parts(rows: Rows) -> list[Part]:
    """Return parts by border, shape, crowding and time.

    Parameters
    ----------
    rows : columns ``cell``, ``touches_border``, ``eccentricity``, ``spacing`` (see :func:`spacings`), ``frame`` and
        ``time``
    """
    border = rows["touches_border"].astype(bool)
    return [
        ("border", border),
        ("inside", ~border),
        *_thirds(rows["eccentricity"], rows["cell"], ("round", "oval", "elongated")),
        *_thirds(-rows["spacing"], rows["cell"], ("sparse", "spaced", "crowded")),
        *_thirds(rows["time"], rows["frame"], ("early", "midway", "late")),
    ]


def spacings(places: npt.NDArray[np.float64], frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return how far the nearest cells of the same frame are.

    Parameters
    ----------
    places : float64, (cells, 2), centroids ``(x, y)`` px, frame
    frames : (cells,), frame of each

    Returns
    -------
    ndarray of float64, shape (cells,)
        Mean distance to the :data:`NEAREST` nearest centroids, px; infinite for the only cell of a frame.
    """
    found = np.full(len(places), np.inf)
    for frame in np.unique(frames):
        there = np.flatnonzero(frames == frame)
        near = min(NEAREST, len(there) - 1)
        if near > 0:
            distances, _ = cKDTree(places[there]).query(places[there], k=near + 1)
            found[there] = distances[:, 1:].mean(1)
    return found


def _thirds(values: npt.NDArray[Any], units: npt.NDArray[Any], names: tuple[str, str, str]) -> list[Part]:
    """Return thirds of the units (cells or frames) by their value, each unit whole; NaN counts as the highest."""
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    appeared = np.argsort(first)  # units of equal value are ranked in the order of the rows
    ranked = appeared[np.argsort(values[first[appeared]], kind="stable")]
    third = np.empty(len(first), np.int64)
    third[ranked] = np.arange(len(first)) * 3 // len(first)
    return [(name, third[unit] == number) for number, name in enumerate(names)]
