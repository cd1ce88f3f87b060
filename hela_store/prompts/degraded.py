"""Mask prompts (rule "mask prompts"): the truth, made worse in units of the cell's diameter d.

On the signed distance field: an offset, a smooth noise and a shift, now and then a merge with a neighbour or a cut
along a straight line; of the result only the largest piece without its holes. A prompt belongs to one of five bins of
its own IoU, and draws are repeated until one falls into it. If none of ``REDRAWS`` does (cells of a few pixels have few
different masks), the one nearest to the bin is kept, and its params say so: ``prompt_iou`` lies outside ``bin``.

Few draws reach the best bin (3 % of them; the noise alone costs a quarter of the area), so draws are made in batches
and scored on a coarse grid first; only those that look right are rendered at frame resolution, where the score counts.

Shapes: K draws, H rows, W columns; all lengths in px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray
from hela_store.images.rle import filled, largest_piece, trim
from hela_store.metrics.overlap import overlap

from .context import CellContext
from .error_model import BINS, GENERIC, ErrorModel

__all__ = ["BINS", "REDRAWS", "DrawnMask", "draw_degraded_mask"]

BATCHES = (8, 16, *(32,) * 12)
"""Draws are made so many at a time: most bins are reached at once, the best one is not."""
REDRAWS = sum(BATCHES)

CORRELATION_LENGTH = 0.25
"""Of the noise, in cell diameters (rule "mask prompts")."""
# ours, in cell diameters: a neighbour is merged if no further away than REACH, and of it what lies within LEAK (two
# cells of one size have IoU 0.5 before anything else is done to them: whole merges would hardly ever fall into a bin);
# a cut runs at most CUT from the cell's centre
REACH = 0.25
LEAK = (0.1, 1.0)
CUT = 0.45
# the coarse score is off by about this much
TOLERANCE = 0.02

Field = npt.NDArray[np.float32]
Window = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class DrawnMask:
    """A degraded mask.

    Attributes
    ----------
    mask : bool, (row, col)
    origin : (int, int)
        ``(x, y)`` px, frame.
    bin : int
        Index into the bins of its model.
    redraws : int
        Draws thrown away before this one.
    prompt_iou : float
        IoU of the mask with the truth.
    event : str
        ``"merge"``, ``"cut"`` or ``""``.
    """

    mask: BoolArray
    origin: tuple[int, int]
    bin: int
    redraws: int
    prompt_iou: float
    event: str


@dataclass(frozen=True, kw_only=True)
class _Draws:
    """K draws; ``cut_reach`` is infinite where nothing is cut, ``neighbour`` 0 where nothing is merged."""

    offset: Field  # (K,)
    shift: npt.NDArray[np.float64]  # (K, 2) x, y
    noise: Field  # (K, H, W), periodic, at every step-th pixel
    step: int
    neighbour: npt.NDArray[np.int64]  # (K,)
    leak: npt.NDArray[np.float64]  # (K,)
    cut_angle: npt.NDArray[np.float64]  # (K,)
    cut_reach: npt.NDArray[np.float64]  # (K,)

    def pick(self, chosen: npt.NDArray[np.intp]) -> _Draws:
        return _Draws(
            offset=self.offset[chosen],
            shift=self.shift[chosen],
            noise=self.noise[chosen],
            step=self.step,
            neighbour=self.neighbour[chosen],
            leak=self.leak[chosen],
            cut_angle=self.cut_angle[chosen],
            cut_reach=self.cut_reach[chosen],
        )


def draw_degraded_mask(
    rng: np.random.Generator, cell: CellContext, bin: int | None = None, model: ErrorModel = GENERIC
) -> DrawnMask:
    """Draw a degraded mask of a cell.

    Parameters
    ----------
    rng : np.random.Generator
    cell : CellContext
    bin : int, optional
        Index into the model's bins; drawn, all equally likely, where None.
    model : ErrorModel
        How masks differ from the truth.

    Returns
    -------
    DrawnMask
        Never empty.
    """
    index = int(rng.integers(len(model.bins))) if bin is None else bin
    low, high = model.bins[index]
    best, best_miss = _single_pixel(cell, index), math.inf
    drawn = 0
    for size in BATCHES:
        draws = _draw(rng, cell, size, model)
        estimate = _miss(_coarse_scores(cell, draws), low, high)
        promising = np.flatnonzero(estimate <= TOLERANCE)
        if drawn + size == REDRAWS and math.isinf(best_miss) and not len(promising):
            promising = np.argsort(estimate)[:1]
        for k in promising:
            found = _render(cell, draws, int(k), (index, drawn))
            miss = float(_miss(np.asarray(found.prompt_iou), low, high))
            if found.mask.any() and miss < best_miss:
                best, best_miss = found, miss
            if best_miss == 0.0:
                return best
        drawn += size
    return best


def _miss(score: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    """Return how far a score lies outside of a bin; the upper end is outside."""
    return np.where(score < low, low - score, np.where(score >= high, score - high + 1e-9, 0.0))


def _single_pixel(cell: CellContext, index: int) -> DrawnMask:
    """Return what is left if every draw is empty: a mask without pixels would be no prompt."""
    row, column = np.unravel_index(int(np.argmax(cell.distance)), cell.distance.shape)
    x0, y0 = cell.origin[0] + cell.near[1].start, cell.origin[1] + cell.near[0].start
    return DrawnMask(
        mask=np.ones((1, 1), np.bool_),
        origin=(x0 + int(column), y0 + int(row)),
        bin=index,
        redraws=REDRAWS,
        prompt_iou=1.0 / cell.area,
        event="",
    )


def _draw(rng: np.random.Generator, cell: CellContext, size: int, model: ErrorModel = GENERIC) -> _Draws:
    d = cell.diameter
    offset = rng.uniform(model.offset[0] * d, model.offset[1] * d, size).astype(np.float32)
    shift = rng.normal(0.0, model.shift * d, (size, 2))
    event, which, place = rng.random((3, size))
    angle = rng.uniform(0.0, 2 * math.pi, size)
    within = np.asarray([label for label, gap in cell.gaps.items() if gap <= REACH * d], np.int64)
    happens = event < model.merge + model.cut
    merged = happens & (which < model.merge_share) & (len(within) > 0)
    neighbour = np.zeros(size, np.int64)
    if merged.any():
        neighbour[merged] = within[(place[merged] * len(within)).astype(int)]
    noise, step = _smooth_noise(rng, cell, size, model.noise)
    return _Draws(
        offset=offset,
        shift=shift,
        noise=noise,
        step=step,
        neighbour=neighbour,
        leak=rng.uniform(LEAK[0] * d, LEAK[1] * d, size),
        cut_angle=angle,
        cut_reach=np.where(happens & ~merged, place * CUT * d, np.inf),
    )


def _smooth_noise(rng: np.random.Generator, cell: CellContext, size: int, rms: float) -> tuple[Field, int]:
    """Draw periodic Gaussian noise of this rms, in diameters, on a grid just fine enough; return it and the step.

    The correlation length is that of a squared-exponential covariance, exp(-r^2 / 2 l^2); white noise smoothed with a
    Gaussian of sigma s has exp(-r^2 / 4 s^2).
    """
    sigma = CORRELATION_LENGTH * cell.diameter / math.sqrt(2)
    step = max(1, round(sigma / 1.2))
    rows, columns = (math.ceil((part.stop - part.start) / step) + 1 for part in cell.near)
    smooth = rng.standard_normal((size, rows, columns), dtype=np.float32)
    for axis in (1, 2):
        smooth = ndimage.gaussian_filter1d(smooth, sigma / step, axis=axis, mode="wrap", truncate=3.0)
    return smooth * np.float32(rms * cell.diameter / _rms_after_filter(sigma / step, step > 1)), step


@lru_cache(maxsize=4096)
def _rms_after_filter(sigma: float, interpolated: bool) -> float:
    """Rms of unit white noise after the filter (and linear interpolation) along both axes, from the kernel alone."""
    radius = int(3.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    variance = float(kernel @ kernel)
    if interpolated:
        # between two neighbours of correlation rho, linear interpolation keeps on average 1 - (1 - rho) / 3
        rho = float(kernel[1:] @ kernel[:-1]) / variance
        variance *= 1.0 - (1.0 - rho) / 3.0
    return variance  # a factor sqrt(variance) for each of two axes


def _coarse_scores(cell: CellContext, draws: _Draws) -> npt.NDArray[np.float64]:
    """Estimate the IoU of each draw from every ``step``-th pixel, whose cover is guessed from the distance."""
    scores = np.zeros(len(draws.offset))
    for label in np.unique(draws.neighbour):
        chosen = np.flatnonzero(draws.neighbour == label)
        distance, _ = _distance(cell, int(label), draws.step)
        cover = _cover(_fields(cell, draws.pick(chosen), draws.step), draws.step)
        truth = _cover(distance, draws.step)
        shared = np.minimum(cover, truth).sum(axis=(1, 2))
        # the least union keeps a cell too thin for the coarse grid from dividing by nothing
        scores[chosen] = shared / np.maximum(cover.sum(axis=(1, 2)) + truth.sum() - shared, 1e-3)
    return scores


def _cover(distance: Field, step: int) -> Field:
    return np.clip(distance * np.float32(1 / step) + np.float32(0.5), 0, 1)


def _distance(cell: CellContext, label: int, stride: int) -> tuple[Field, Window]:
    """Return the signed distance at every ``stride``-th px of the part of the crop that matters, and that part."""
    if label == 0:
        return cell.distance[::stride, ::stride], cell.near
    height, width = cell.labels.shape
    return cell.wide_distance(cell.label, stride), (slice(0, height), slice(0, width))


def _render(cell: CellContext, draws: _Draws, k: int, so_far: tuple[int, int]) -> DrawnMask:
    """Render one draw at frame resolution; ``so_far`` are its bin and the draws before its batch."""
    label = int(draws.neighbour[k])
    rows, columns = _distance(cell, label, 1)[1]
    field = _fields(cell, draws.pick(np.asarray([k])), 1)[0]
    crop, corner = trim(field > 0, (columns.start, rows.start))
    mask, (x, y) = trim(filled(largest_piece(crop)), corner)
    origin = cell.origin[0] + x, cell.origin[1] + y
    below = cell.labels[y : y + mask.shape[0], x : x + mask.shape[1]]
    merged = label != 0 and bool((mask & (below == label)).any())
    return DrawnMask(
        mask=mask,
        origin=origin,
        bin=so_far[0],
        redraws=so_far[1] + k,
        prompt_iou=overlap(mask, cell.mask, origin, cell.origin).iou,
        event="merge" if merged else "cut" if np.isfinite(draws.cut_reach[k]) else "",
    )


def _fields(cell: CellContext, draws: _Draws, stride: int) -> Field:
    """Return the degraded distance fields, float32, (K, H, W), of draws that share their neighbour."""
    label = int(draws.neighbour[0])
    distance, window = _distance(cell, label, stride)
    bases = distance[None]
    if label:
        leaks = draws.leak.astype(np.float32)[:, None, None]
        other = np.minimum(cell.wide_distance(label, stride), distance + leaks)
        bases = _smooth_union(distance, other, np.float32(2.5 * cell.gaps[label] + 2.0))
    fields = _shifted(bases, draws.shift / stride)
    rows, columns = (np.arange(part.start, part.stop, stride) for part in window)
    fields += _noise_at(draws, rows - cell.near[0].start, columns - cell.near[1].start)
    fields += draws.offset[:, None, None]
    centre_x, centre_y = cell.centroid
    for k in np.flatnonzero(np.isfinite(draws.cut_reach)):
        across = math.cos(draws.cut_angle[k]) * (columns - centre_x), math.sin(draws.cut_angle[k]) * (rows - centre_y)
        fields[k] = np.minimum(fields[k], draws.cut_reach[k] - across[0][None, :] - across[1][:, None])
    return fields


def _smooth_union(a: Field, b: Field, width: np.float32) -> Field:
    """Join two shapes with a bridge (polynomial smooth maximum, I. Quilez, "smooth minimum", 2013)."""
    near = np.clip(width - np.abs(a - b), 0, None) / width
    joined: Field = np.maximum(a, b) + near * near * (width / 4)
    return joined


def _shifted(fields: Field, shift: npt.NDArray[np.float64]) -> Field:
    """Move each of K fields, or one field K times, by fractional shifts, linearly; the border repeats itself.

    Parameters
    ----------
    fields : float32, (K or 1, H, W)
    shift : float64, (K, 2)
        ``(x, y)`` px.
    """
    which, height, width = np.zeros(len(shift), int), *fields.shape[1:]
    if len(fields) > 1:
        which = np.arange(len(shift))
    whole = np.floor(shift).astype(int)
    weight = (shift - whole).astype(np.float32)[:, :, None, None]
    rows = np.arange(height) - whole[:, 1, None]
    moved = fields[which[:, None], rows.clip(0, height - 1)] * (1 - weight[:, 1])
    moved += fields[which[:, None], (rows - 1).clip(0, height - 1)] * weight[:, 1]
    columns = np.arange(width) - whole[:, 0, None]
    start = (np.arange(len(shift) * height) * width).reshape(len(shift), height, 1)
    result: Field = moved.take(start + columns.clip(0, width - 1)[:, None, :]) * (1 - weight[:, 0])
    result += moved.take(start + (columns - 1).clip(0, width - 1)[:, None, :]) * weight[:, 0]
    return result


def _noise_at(draws: _Draws, *places: npt.NDArray[np.int64]) -> Field:
    """Interpolate the noise, which repeats beyond its window, linearly at ``places``: rows, columns of the window."""
    noise = draws.noise
    for axis, place in enumerate(places, start=1):
        index, rest = np.divmod(place, draws.step)
        period = noise.shape[axis]
        lower = noise.take(index % period, axis)
        if rest.any():
            weight = (rest / draws.step).astype(np.float32).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
            lower = lower * (1 - weight) + noise.take((index + 1) % period, axis) * weight
        noise = lower
    return noise
