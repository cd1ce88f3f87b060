"""95 % intervals for mean differences: tracks of cells, crossed with frames and training seeds.

The frames of a test block show the same cells again and again, neighbouring frames look alike, and all rows of a run
share one training. Rows are therefore no independent draws. The variance of the mean is the sum over the pairs of rows
that share a track, a frame or a seed (Cameron, Gelbach and Miller, JBES 2011; Owen, Annals of Applied Statistics 2007),
each pair counted once:

- Tracks: the squared sums over the rows of a track.
- Frames: the frames' sums are a series in time. Its variance is measured by its first few cosines (Lazarus, Lewis,
  Stock and Watson, JBES 2018), and corrected for what they miss where neighbours correlate by :data:`CORRELATION`.
- Seeds: the squared sums over the rows of a seed, less what the rows of the other two already hold.

Few frames and few seeds make the estimate uncertain, so the interval takes the quantile of a t distribution with
Satterthwaite's degrees of freedom. A percentile bootstrap of the same three (Owen's pigeonhole) stands beside it; with
three seeds it is too narrow. ``tests/metrics/test_coverage.py`` simulates how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from hela_store.base.rng import generator

DRAWS = 2_000
BLOCK_FRAMES = 5
"""Frames of a block: a HeLa nucleus of Fluo-N2DL-HeLa (30 min a frame) divides, moves and changes over hours."""
MARGIN = 0.005
"""Differences up to this size, in either direction, do not matter."""
LEAST_BLOCKS, LEAST_SEEDS = 5, 3
"""With fewer blocks or training seeds a comparison gets numbers and no word."""
CORRELATION = 0.8
"""Correlation of the effects of neighbouring frames up to which intervals are meant to hold."""
MAX_LAG = 60
"""Frames after which that correlation has died out."""
ROUNDING = 1e-9
"""Widths below this one are made by the rounding of float64, not by differences between cells."""

Word = Literal["better", "worse", "equivalent", "undecided", ""]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Units:
    """Describe what the rows of a table are draws of: int64, (rows,) each, any numbers.

    Attributes
    ----------
    track : the cell over time; the image, or group of images, where rows are of stills
    frame : numbered in the order of time; None for stills, whose frames are their tracks
    block : block of frames, see :func:`frame_blocks`; only the bootstrap draws these
    seed : training seed
    """

    track: Ints
    frame: Ints | None
    block: Ints
    seed: Ints

    def take(self, kept: npt.NDArray[np.bool_] | Ints) -> Units:
        """Return the units of some of the rows, by mask or index."""
        frame = None if self.frame is None else self.frame[kept]
        return Units(track=self.track[kept], frame=frame, block=self.block[kept], seed=self.seed[kept])


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval; the ends are NaN where there is one frame or track, so nothing to measure it from.

    Attributes
    ----------
    mean, low, high : float
    blocks, seeds, tracks : int
        How many of each the rows are draws of; with one seed the interval is that of this one training. Seeds with the
        same values in every row are copies of one training, and count as one.
    df : float
        Degrees of freedom of the t quantile; infinite where all rows are equal.
    bootstrap_low, bootstrap_high : float
        Ends of the percentile bootstrap; NaN where it was not drawn.
    """

    mean: float
    low: float
    high: float
    blocks: int
    seeds: int
    tracks: int = 0
    df: float = math.nan
    bootstrap_low: float = math.nan
    bootstrap_high: float = math.nan

    @property
    def is_flat(self) -> bool:
        """Whether there is an interval that has no width, because all values are alike."""
        return self.high - self.low < ROUNDING

    @property
    def standing(self) -> Word:
        """The place of the interval, however few its units: ``""`` without an interval, or with one of no width.

        Values that are all alike, up to rounding, do not say how far their mean may be off.

        Better or worse: wholly beyond :data:`MARGIN`; equivalent: wholly within it on both sides; else undecided.
        """
        if math.isnan(self.low) or self.is_flat:
            return ""
        if self.low > MARGIN:
            return "better"
        if self.high < -MARGIN:
            return "worse"
        return "equivalent" if self.low > -MARGIN and self.high < MARGIN else "undecided"

    def within(self, low: float, high: float) -> Interval:
        """Return the interval without what lies beyond the values that a mean can have, such as 0 and 1 of IoU.

        With few frames or seeds a t interval is wide, and reaches beyond them. What it leaves out holds no mean, so its
        coverage is the same, and :attr:`error` too unless both ends are cut.
        """

        def cut(end: float) -> float:
            return min(max(end, low), high) if math.isfinite(end) else end

        return replace(
            self,
            low=cut(self.low),
            high=cut(self.high),
            bootstrap_low=cut(self.bootstrap_low),
            bootstrap_high=cut(self.bootstrap_high),
        )

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return max(self.high - self.mean, self.mean - self.low) / float(stdtrit(self.df, 0.975))

    @property
    def word(self) -> Word:
        """:attr:`standing`, and ``""`` with fewer than :data:`LEAST_BLOCKS` blocks or :data:`LEAST_SEEDS` seeds."""
        return "" if self.blocks < LEAST_BLOCKS or self.seeds < LEAST_SEEDS else self.standing


def frame_blocks(frames: Sequence[tuple[str, int]], length: int = BLOCK_FRAMES) -> Ints:
    """Return the block of each row: runs of ``length`` frames that follow each other within a sequence.

    Parameters
    ----------
    frames : sequence of (sequence, time)
        The frame of each row; rows may share frames, and come in any order.
    length : int
        1 for stills.
    """
    there = sorted(set(frames))
    blocks: dict[tuple[str, int], int] = {}
    block = -1
    first: tuple[str, int] | None = None
    for sequence, time in there:
        if first is None or sequence != first[0] or time >= first[1] + length:
            block, first = block + 1, (sequence, time)
        blocks[sequence, time] = block
    return np.array([blocks[frame] for frame in frames], np.int64)


def per_frame_weights(groups: Sequence[Hashable]) -> Floats:
    """Return weights that make every group count the same, however many rows it has; float64, (rows,)."""
    index = numbered(groups)
    return 1.0 / np.bincount(index)[index]


def numbered(values: Sequence[Hashable]) -> Ints:
    """Return a number for each value, equal for equal values, in the order they appear; int64, (rows,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def crossed_interval(values: Floats, units: Units, weights: Floats | None = None, draws: int = DRAWS) -> Interval:
    """Return the weighted mean of ``values`` with its 95 % interval.

    The draws of the bootstrap depend on the numbers of units alone: the same data give the same interval.

    Parameters
    ----------
    values : float64, (rows,)
        At least one; differences, for :attr:`Interval.word` to mean something.
    units : Units
    weights : float64, (rows,), optional
    draws : int
        Of the bootstrap; 0 for none.
    """
    weights = np.ones(len(values)) if weights is None else weights
    codes = _Codes.of(replace(units, seed=_distinct(values, units)))
    mean = float(np.average(values, weights=weights))
    about = {"mean": mean, "blocks": codes.blocks, "seeds": codes.seeds, "tracks": codes.tracks}
    if codes.tracks < 2 or codes.frames == 1:
        return Interval(low=math.nan, high=math.nan, **about)  # type: ignore[arg-type]
    shares = weights / weights.sum()
    variance, df = _variance(shares * (values - mean), shares, codes)
    half = float(stdtrit(df, 0.975)) * math.sqrt(variance) if variance > 0 else 0.0
    low, high = _pigeonhole(values, weights, codes, draws) if draws else (math.nan, math.nan)
    ends = {"low": mean - half, "high": mean + half, "bootstrap_low": low, "bootstrap_high": high}
    return Interval(df=df if variance > 0 else math.inf, **about, **ends)  # type: ignore[arg-type]


def part_interval(values: Floats, units: Units, part: npt.NDArray[np.bool_]) -> Interval:
    """Return the mean over a part of the rows less the mean over all rows, with its 95 % interval.

    The difference is the mean of each row's influence on it, so tracks and frames that part and rest share cancel as
    far as they do. The degrees of freedom are at most those of the tracks and frames of the part alone.

    Parameters
    ----------
    values : float64, (rows,)
    units : Units
    part : bool, (rows,), at least one of them True
    """
    change = float(values[part].mean() - values.mean())
    influence = values.mean() - values + np.where(part, values - values[part].mean(), 0.0) / part.mean()
    found = crossed_interval(influence + change, units, draws=0)
    own = units.take(part)
    counts = [len(np.unique(own.track)), *([] if own.frame is None else [len(np.unique(own.frame))])]
    about = {"blocks": len(np.unique(own.block)), "tracks": counts[0]}
    if min(counts) < 2 or math.isnan(found.low):
        return replace(found, mean=change, low=math.nan, high=math.nan, df=math.nan, **about)
    error = found.error
    found = replace(found, mean=change, df=min(found.df, min(counts) - 1), **about)
    low, high = (change + sign * error * float(stdtrit(found.df, 0.975)) for sign in (-1, 1))
    return replace(found, low=low, high=high)


def _distinct(values: Floats, units: Units) -> Ints:
    """Return the seeds of the rows with one number for all seeds that have the same values in the same rows."""
    if (units.seed == units.seed[0]).all():
        return units.seed
    order = np.lexsort((values, units.track if units.frame is None else units.frame, units.track))
    found: dict[bytes, int] = {}
    seeds = units.seed.copy()
    for seed in np.unique(units.seed):
        rows = order[units.seed[order] == seed]
        place = (units.track[rows], *(() if units.frame is None else (units.frame[rows],)), values[rows])
        seeds[units.seed == seed] = found.setdefault(b"".join(part.tobytes() for part in place), int(seed))
    return seeds


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """Units numbered from 0 on without gaps, and how many of each there are; no frames: 0."""

    track: Ints
    frame: Ints
    block: Ints
    seed: Ints
    tracks: int
    frames: int
    blocks: int
    seeds: int

    @classmethod
    def of(cls, units: Units) -> _Codes:
        frame = np.zeros_like(units.track) if units.frame is None else units.frame
        parts = {"track": units.track, "frame": frame, "block": units.block, "seed": units.seed}
        codes = {name: np.unique(part, return_inverse=True)[1].astype(np.int64) for name, part in parts.items()}
        counts = {f"{name}s": int(part.max()) + 1 for name, part in codes.items()}
        if units.frame is None:
            counts["frames"] = 0
        return cls(**codes, **counts)  # type: ignore[arg-type]


def _squares(u: Floats, *codes: Ints) -> float:
    """Return the sum of the squared sums of ``u`` over the rows that share all codes."""
    joined = codes[0]
    for code in codes[1:]:
        joined = joined * (int(code.max()) + 1) + code
    dense = np.unique(joined, return_inverse=True)[1] if len(codes) > 1 else joined
    sums = np.bincount(dense, u)
    return float(sums @ sums)


def _variance(u: Floats, shares: Floats, codes: _Codes) -> tuple[float, float]:
    """Return the variance of a mean and its degrees of freedom.

    Parameters
    ----------
    u : float64, (rows,)
        Deviation of each row from the mean, times its share.
    shares : float64, (rows,)
        Weights of the rows; their sum is 1.
    codes : _Codes
    """
    tracks = _squares(u, codes.track) * codes.tracks / (codes.tracks - 1)
    variance, parts = tracks, [(tracks, codes.tracks - 1)]
    if codes.frames:
        # a mean over few frames takes a part of what the tracks share with them
        variance *= codes.frames / (codes.frames - 1)
        cosines = min(codes.frames - 1, max(2, round(0.25 * codes.frames ** (2 / 3))))
        waves = _cosines(codes.frames, cosines) @ np.bincount(codes.frame, u)
        series = 2 * float(np.mean(waves**2))
        own = series - _squares(u, codes.track, codes.frame)
        if own > 0:
            missed = _missed(codes.frames, cosines)
            variance += missed * own
            parts.append((missed * series, cosines))
        else:
            variance = max(variance + own, tracks)
    if codes.seeds > 1:
        seeds = _squares(u, codes.seed) * codes.seeds / (codes.seeds - 1)
        own = seeds - _shared_with_seeds(u, shares, codes)
        if own > 0:
            variance += own
            parts.append((seeds, codes.seeds - 1))
    spread = sum(part**2 / df for part, df in parts)
    return variance, max(1.0, variance**2 / spread) if spread > 0 else math.inf


def _shared_with_seeds(u: Floats, shares: Floats, codes: _Codes) -> float:
    """Return what pairs of rows hold that share a seed and a track or frame; effects of one of these alone are out."""
    stride = codes.frames or 1
    cells, place = np.unique(codes.track * stride + codes.frame, return_inverse=True)
    entry, row = np.unique(place * codes.seeds + codes.seed, return_inverse=True)
    sums, of_cell, seed = np.bincount(row, u), entry // codes.seeds, entry % codes.seeds
    counts = np.bincount(of_cell, minlength=len(cells))[of_cell]
    apart = sums - np.bincount(of_cell, sums, minlength=len(cells))[of_cell] / counts
    weights = np.bincount(row, shares)
    apart -= weights * (np.bincount(seed, apart) / np.bincount(seed, weights))[seed]
    apart *= np.sqrt(counts / np.maximum(counts - 1, 1))
    track, frame = cells[of_cell] // stride, cells[of_cell] % stride
    held = _squares(apart, track, seed)
    return held if not codes.frames else held + _squares(apart, frame, seed) - float(apart @ apart)


@lru_cache(maxsize=64)
def _cosines(frames: int, count: int) -> Floats:
    """Return the first cosines over a series, the constant left out; float64, (count, frames)."""
    waves: Floats = np.cos(np.pi * np.arange(1, count + 1)[:, None] * (np.arange(frames) + 0.5) / frames)
    return waves


@lru_cache(maxsize=64)
def _missed(frames: int, count: int) -> float:
    """Return the variance of a series' sum over what its cosines show, where neighbours correlate by CORRELATION."""
    waves, lags = _cosines(frames, count), range(1, min(frames, MAX_LAG))
    whole = frames + 2 * sum((frames - lag) * CORRELATION**lag for lag in lags)
    power = np.square(waves).sum() + 2 * sum(
        CORRELATION**lag * (waves[:, lag:] * waves[:, :-lag]).sum() for lag in lags
    )
    return float(whole / (2 * power / count))


def _pigeonhole(values: Floats, weights: Floats, codes: _Codes, draws: int) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap over tracks, blocks and seeds; for stills over tracks and seeds."""
    blocks = codes.blocks if codes.frames else 1
    column = codes.seed * blocks + (codes.block if codes.frames else 0)
    width = codes.seeds * blocks
    total, weight = np.zeros((codes.tracks, width)), np.zeros((codes.tracks, width))
    np.add.at(total, (codes.track, column), weights * values)
    np.add.at(weight, (codes.track, column), weights)
    rng = generator("crossed interval", codes.tracks, blocks, codes.seeds)
    means: list[Floats] = []
    chunk = max(1, 4_000_000 // codes.tracks)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = [rng.multinomial(n, np.full(n, 1 / n), size).astype(float) for n in (codes.tracks, codes.seeds, blocks)]
        of_column = (drawn[1][:, :, None] * drawn[2][:, None, :]).reshape(size, width)
        counted = ((drawn[0] @ weight) * of_column).sum(1)
        summed = ((drawn[0] @ total) * of_column).sum(1)
        # a draw may hold no row at all where not every seed scored every block
        means.append(summed[counted > 0] / counted[counted > 0])
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
