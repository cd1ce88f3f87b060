"""Fit an error model to the masks of a tool, where labelled frames overlap its output.

Each cell of the truth is paired with one mask. Of the pairs that are neither merged nor cut, the shift of the centres,
the mean distance of the boundaries and what is left of it along the boundary are measured in units of the cell's
diameter. Roughness also moves the centre and changes the area, and a boundary of pixels is rough by itself. So the same
is measured on masks that are drawn from the model, and the model is corrected until both agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.rng import generator
from hela_store.images.labels import shared_pixels
from hela_store.images.rle import bbox, paste
from hela_store.metrics.boundaries import edge, signed_distance
from hela_store.metrics.matching import match
from hela_store.metrics.overlap import equivalent_diameter, iou

from .context import CellContext, cell_contexts
from .degraded import draw_degraded_mask
from .error_model import GENERIC, ErrorModel
from .table import LEAST_OVERLAP

LEAST_PAIRS = 20
"""Fewer pairs say too little: the generic model is taken."""
MOST_CELLS = 150
"""Cells whose drawn masks are measured in each round."""
ROUNDS = 2
MERGED = 0.5
"""Share of a cell that a mask must hold to have swallowed it, when its own cell is another."""
MISSING = 0.2
"""A cell is cut where one piece of this share of it is missing ..."""
BEYOND = 0.1
"""... and no more than this share of its area is added elsewhere."""
CUT_SHARE = 0.7
"""... and that piece holds this share of all that is missing."""
MARGIN = 4
"""Pixels around both masks in which they are compared."""

Measures = npt.NDArray[np.float64]
"""Float64, (pairs, 4): offset, shift along x and y, roughness; all d."""


@dataclass(frozen=True, kw_only=True)
class ErrorPairs:
    """Pairs of cells and masks of a tool.

    Attributes
    ----------
    measures : of the pairs that are neither merged nor cut
    ious : of all pairs
    merged, cut : how many are
    cells : some of the cells, for masks to be drawn of
    """

    measures: Measures
    ious: npt.NDArray[np.float64]
    merged: int
    cut: int
    cells: list[CellContext]

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.ious)


def error_pairs(frames: Iterable[tuple[str, LabelArray, LabelArray]]) -> ErrorPairs:
    """Pair the cells of frames with the masks of a tool, one to one, and measure how these differ.

    Parameters
    ----------
    frames : iterable of (frame id, truth, masks)
        Label images, integer, (row, col), of one shape.
    """
    measures: list[tuple[float, ...]] = []
    ious: list[float] = []
    merged = cut = 0
    cells: list[CellContext] = []
    for name, truth, masks in frames:
        pairs = shared_pixels(truth, masks)
        matched = match(pairs.table(), LEAST_OVERLAP)
        swallowed = pairs.shared > MERGED * pairs.first_areas[pairs.first]
        holds = np.bincount(pairs.second[swallowed], minlength=len(pairs.second_labels))
        places = ndimage.find_objects(truth)
        asked: dict[int, str] = {}
        for i in np.flatnonzero(matched.partner >= 0):
            label, other = int(pairs.first_labels[i]), int(matched.partner[i])
            one, two = _crops(truth, label, masks, int(pairs.second_labels[other]), places[label - 1])
            ious.append(float(matched.iou[i]))
            asked[label] = f"{name}#{label}"
            if holds[other] > 1:
                merged += 1
            elif _is_cut(one, two):
                cut += 1
            else:
                measures.append(measure(one, two))
        cells += cell_contexts(truth, asked)
    found = np.array(measures, np.float64).reshape(-1, 4)
    chosen = generator("error pairs").permutation(len(cells))[:MOST_CELLS]
    few = [cells[i] for i in sorted(chosen)]
    return ErrorPairs(measures=found, ious=np.array(ious), merged=merged, cut=cut, cells=few)


def fit_errors(pairs: ErrorPairs) -> ErrorModel:
    """Return the error model of these pairs; the generic one where there are fewer than :data:`LEAST_PAIRS`."""
    if pairs.count < LEAST_PAIRS or len(pairs.measures) < LEAST_PAIRS:
        return GENERIC
    wanted = _spread(pairs.measures)
    edges = np.quantile(pairs.ious, np.linspace(0, 1, len(GENERIC.bins) + 1))
    edges[-1] = min(edges[-1] + 1e-3, 1.0 + 1e-3)
    bins = tuple((float(low), float(max(high, low + 1e-3))) for low, high in pairwise(edges))
    about = {"merge": pairs.merged / pairs.count, "cut": pairs.cut / pairs.count, "bins": bins, "pairs": pairs.count}
    values = wanted
    for _ in range(ROUNDS):
        drawn = _spread(_measure_draws(replace(_model(values, about), merge=0.0, cut=0.0), pairs.cells))
        values = np.array([values[0] + wanted[0] - drawn[0], *(values[1:] * _ratio(wanted[1:], drawn[1:]))])
    return _model(values, about)


def _ratio(wanted: npt.NDArray[np.float64], drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = np.clip((wanted + 1e-3) / (drawn + 1e-3), 0.25, 2.0)
    return result


def _model(values: npt.NDArray[np.float64], about: dict[str, object]) -> ErrorModel:
    """Return the model with a mean offset, and the spread of offset, shift and roughness."""
    mean, spread, shift, noise = (round(float(value), 4) for value in values)
    half = round(math.sqrt(3) * spread, 4)  # of a uniform distribution with this standard deviation
    return replace(GENERIC, offset=(mean - half, mean + half), shift=shift, noise=noise, **about)  # type: ignore[arg-type]


def _spread(measures: Measures) -> npt.NDArray[np.float64]:
    """Return the mean and standard deviation of the offset, and the rms of shift (an axis) and roughness."""
    offset, shift, rough = measures[:, 0], measures[:, 1:3], measures[:, 3]
    return np.array([offset.mean(), offset.std(), np.sqrt(np.mean(shift**2)), np.sqrt(np.mean(rough**2))])


def _measure_draws(model: ErrorModel, cells: Sequence[CellContext]) -> Measures:
    found = []
    for cell in cells:
        drawn = draw_degraded_mask(generator("fit errors", cell.cell), cell, model=model)
        x0, y0 = (min(a, b) - MARGIN for a, b in zip(cell.origin, drawn.origin, strict=True))
        shape = (
            max(cell.origin[1] + cell.mask.shape[0], drawn.origin[1] + drawn.mask.shape[0]) - y0 + MARGIN,
            max(cell.origin[0] + cell.mask.shape[1], drawn.origin[0] + drawn.mask.shape[1]) - x0 + MARGIN,
        )
        one, two = (paste(m, at, shape, (x0, y0)) for m, at in ((cell.mask, cell.origin), (drawn.mask, drawn.origin)))
        found.append(measure(one, two))
    return np.array(found, np.float64).reshape(-1, 4)


def measure(truth: BoolArray, mask: BoolArray) -> tuple[float, float, float, float]:
    """Measure how a mask differs from the truth.

    Parameters
    ----------
    truth, mask : bool, (row, col)
        The same crop of a frame; neither is empty.

    Returns
    -------
    offset, shift x, shift y, roughness : float
        In diameters of the truth. The offset is positive where the mask's boundary lies outside.
    """
    d = equivalent_diameter(int(truth.sum()))
    shift = np.argwhere(mask).mean(0) - np.argwhere(truth).mean(0)
    distance = signed_distance(truth)
    places = np.argwhere(edge(mask)) - shift
    along = ndimage.map_coordinates(distance, places.T, order=1, mode="nearest")
    own = distance[edge(truth)]
    rough = math.sqrt(max(float(along.var() - own.var()), 0.0))
    return float(own.mean() - along.mean()) / d, float(shift[1]) / d, float(shift[0]) / d, rough / d


def _crops(
    truth: LabelArray, label: int, masks: LabelArray, other: int, place: tuple[slice, slice]
) -> tuple[BoolArray, BoolArray]:
    """Return both masks in the smallest crop that holds them, with a margin of background around."""
    mask = masks == other
    x0, y0, x1, y1 = bbox(mask)
    rows = slice(min(place[0].start, y0), max(place[0].stop, y1))
    columns = slice(min(place[1].start, x0), max(place[1].stop, x1))
    return np.pad(truth[rows, columns] == label, MARGIN), np.pad(mask[rows, columns], MARGIN)


def _is_cut(truth: BoolArray, mask: BoolArray) -> bool:
    """Return whether a large piece of the cell is missing, and little is added elsewhere."""
    area, missing = int(truth.sum()), truth & ~mask
    pieces, count = ndimage.label(missing)
    if not count or iou(truth, mask) > 1 - MISSING:
        return False
    largest = int(np.bincount(pieces.ravel())[1:].max())
    added = int((mask & ~truth).sum())
    return largest >= MISSING * area and largest >= CUT_SHARE * int(missing.sum()) and added <= BEYOND * area
