"""All metrics of one prediction beyond its overlap, at the frame's resolution, in the crop both span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.rle import trim

from .boundaries import band_width, boundary_iou, hausdorff, surface_dice, surface_distances
from .failures import judge
from .overlap import equivalent_diameter


@dataclass(frozen=True, kw_only=True)
class CellScores:
    """Describe what the columns of the same names hold.

    Attributes
    ----------
    boundary_iou : float, 0..1
        With the band of :func:`hela_store.metrics.boundaries.band_width`.
    hd95 : float, px
        95 % Hausdorff distance; of an empty prediction the cell's diameter (rule "names").
    nsd1, nsd2 : float, 0..1
        Normalised surface Dice at 1 and 2 px; 0 of an empty prediction.
    spill : float, 0..1
        Share of predicted pixels on other cells.
    failure : str
        See :mod:`hela_store.metrics.failures`.
    """

    boundary_iou: float
    hd95: float
    nsd1: float
    nsd2: float
    spill: float
    failure: str


def score_cell(
    predicted: BoolArray,
    origin: tuple[int, int],
    labels: LabelArray,
    label: int,
    box: tuple[int, int, int, int],
    areas: dict[int, int],
) -> CellScores:
    """Score the prediction for one cell.

    Where the cell is cut by the border of the frame, the border is no part of its boundary.

    Parameters
    ----------
    predicted : bool, (row, col)
        A crop of the frame; what lies beyond the frame does not count.
    origin : (int, int)
        ``(x, y)`` px, frame, of the crop's first pixel.
    labels : integer, (row, col)
        The whole frame's labels.
    label : int
        Value of the cell in ``labels``.
    box : (int, int, int, int)
        Bounding box of the cell, ``(x0, y0, x1, y1)`` px, frame; x1 and y1 exclusive.
    areas : dict of label to px
        As :func:`hela_store.metrics.failures.label_areas` counts them, once a frame.
    """
    x0, y0, x1, y1 = box
    found, (left, top) = trim(predicted, origin)
    if found.size:
        x0, y0 = max(min(x0, left), 0), max(min(y0, top), 0)
        x1 = min(max(x1, left + found.shape[1]), labels.shape[1])
        y1 = min(max(y1, top + found.shape[0]), labels.shape[0])
    crop = labels[y0:y1, x0:x1]
    mask = np.zeros(crop.shape, bool)
    if found.size:
        inside = found[max(y0 - top, 0) : y1 - top, max(x0 - left, 0) : x1 - left]
        row, column = max(top - y0, 0), max(left - x0, 0)
        mask[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    verdict = judge(mask, crop, label, areas)
    diameter = equivalent_diameter(areas[label])
    if verdict.failure == "empty":
        return CellScores(boundary_iou=0.0, hd95=diameter, nsd1=0.0, nsd2=0.0, spill=0.0, failure="empty")
    truth: BoolArray = crop == label
    border = (x0 == 0, y0 == 0, x1 == labels.shape[1], y1 == labels.shape[0])
    distances = surface_distances(mask, truth, border)
    return CellScores(
        boundary_iou=boundary_iou(mask, truth, band_width(diameter), border),
        hd95=hausdorff(distances),
        nsd1=surface_dice(distances, 1.0),
        nsd2=surface_dice(distances, 2.0),
        spill=verdict.spill,
        failure=verdict.failure,
    )
