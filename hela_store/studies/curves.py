"""Fit the score of decoders to the number of cells that they learned from, with a band.

Two forms are tried, a power law and a logarithm, and the one with the lower corrected Akaike criterion is taken. The
band is a bootstrap that draws training seeds and tracks of test cells together, and fits every draw again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator

DRAWS = 500
LEAST_BUDGETS = 4
"""Different budgets that a fit needs: a power law has three numbers to find."""
EXPONENTS = np.geomspace(0.05, 3.0, 40)
REACHED = 0.95
MORE = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of runs, summed by track of the test cells so that tracks can be drawn again.

    Attributes
    ----------
    budget : ndarray of int64, shape (runs,)
        Number of labelled cells.
    seed : ndarray of int64, shape (runs,)
    sums : ndarray of float64, shape (runs, tracks)
        Sum of the IoU over the rows of a track.
    counts : ndarray of float64, shape (tracks,)
        Number of these rows.
    zero : ndarray of float64, shape (tracks,)
        The sums of zero-shot.
    """

    budget: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    sums: Floats
    counts: Floats
    zero: Floats


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number with its 95 % band."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A fitted curve; its first row is the fit, the others are those of the bootstrap.

    Attributes
    ----------
    form : ``"power"``, ``a - b n^-c``, or ``"log"``, ``a + b log n``
    numbers : ndarray of float64, shape (1 + draws, 3)
        ``a``, ``b`` and ``c``.
    zero : ndarray of float64, shape (1 + draws,)
        Zero-shot, on the same cells.
    smallest, largest : the smallest and the largest budget that was tried
    """

    form: str
    numbers: Floats
    zero: Floats
    smallest: int
    largest: int

    def at(self, budget: float) -> Range:
        """Return the score after so many cells."""
        return _range(self._values(budget))

    def gain(self, budget: float) -> Range:
        """Return the gain over zero-shot after so many cells."""
        return _range(self._values(budget) - self.zero)

    def more(self, budget: float, cells: int = MORE) -> Range:
        """Return what so many more cells add."""
        return _range(self._values(budget + cells) - self._values(budget))

    @property
    def reached(self) -> int | None:
        """The budget at which :data:`REACHED` of the largest one's gain is there; None where that gain is not clear.

        No budget below the smallest one that was tried is named.
        """
        if self.gain(self.largest).low <= 0:
            return None
        budgets = np.unique(np.geomspace(self.smallest, self.largest, 400).round().astype(int))
        gains = np.array([self._values(int(n))[0] - self.zero[0] for n in budgets])
        return int(budgets[np.argmax(gains >= REACHED * gains[-1])])

    def _values(self, budget: float) -> Floats:
        a, b, c = self.numbers.T
        found: Floats = a + b * np.log(budget) if self.form == "log" else a - b * float(budget) ** -c
        return found


def fit(scores: Scores) -> Curve | None:
    """Return the curve of one strategy; None with fewer than :data:`LEAST_BUDGETS` different budgets.

    Parameters
    ----------
    scores : of its runs
    """
    budgets = np.unique(scores.budget)
    if len(budgets) < LEAST_BUDGETS:
        return None
    seeds, seed = np.unique(scores.seed, return_inverse=True)
    rng, tracks = generator("budget curve", len(scores.counts), len(seeds)), len(scores.counts)
    drawn = rng.multinomial(tracks, np.full(tracks, 1 / tracks), DRAWS).astype(float)
    drawn_seeds = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), DRAWS).astype(float)
    of_track = np.vstack([np.ones(tracks), drawn])
    of_run = np.vstack([np.ones(len(seed)), drawn_seeds[:, seed]])
    # a draw of seeds must leave runs to fit; with one seed all draws keep it
    rows = of_track @ scores.counts
    y, zero = of_track @ scores.sums.T / rows[:, None], of_track @ scores.zero / rows
    kept = _has_runs(of_run, scores.budget)
    y, zero, of_run = y[kept], zero[kept], of_run[kept]
    power, log = _power(scores.budget, y, of_run), _log(scores.budget, y, of_run)
    criteria = [
        _criterion(y[0] - _shape(form, part[0], scores.budget), numbers)
        for form, part, numbers in (("power", power, 3), ("log", log, 2))
    ]
    form, numbers = ("log", log) if criteria[1] <= criteria[0] else ("power", power)
    return Curve(form=form, numbers=numbers, zero=zero, smallest=int(budgets[0]), largest=int(budgets[-1]))


def _has_runs(of_run: Floats, budget: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    there = np.stack([of_run[:, budget == n].sum(1) > 0 for n in np.unique(budget)])
    kept: npt.NDArray[np.bool_] = there.sum(0) >= LEAST_BUDGETS
    return kept


def _log(budget: npt.NDArray[np.int64], y: Floats, weights: Floats) -> Floats:
    a, b, _ = _line(np.log(budget), y, weights)
    return np.column_stack([a, b, np.ones(len(a))])


def _power(budget: npt.NDArray[np.int64], y: Floats, weights: Floats) -> Floats:
    """Return the best power law of each draw: of a line for every exponent the one with the least error."""
    cells: Floats = budget.astype(float)
    tried = [_line(np.negative(cells ** -float(c)), y, weights) for c in EXPONENTS]
    best = np.argmin(np.stack([error for _, _, error in tried]), axis=0)
    draws = np.arange(len(best))
    a, b = (np.stack([part[i] for part in tried])[best, draws] for i in (0, 1))
    return np.column_stack([a, b, EXPONENTS[best]])


def _line(x: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit ``y = a + b x`` to each row of ``y`` and ``weights``, (draws, runs); return a, b and the weighted error."""
    total = weights.sum(1)
    mean_x, mean_y = weights @ x / total, (weights * y).sum(1) / total
    dx, dy = x[None] - mean_x[:, None], y - mean_y[:, None]
    b = (weights * dx * dy).sum(1) / (weights * dx**2).sum(1)
    error = (weights * (dy - b[:, None] * dx) ** 2).sum(1)
    return mean_y - b * mean_x, b, error


def _shape(form: str, numbers: Floats, budgets: npt.NDArray[np.int64]) -> Floats:
    a, b, c = numbers
    found: Floats = a + b * np.log(budgets) if form == "log" else a - b * budgets ** -float(c)
    return found


def _criterion(errors: Floats, numbers: int) -> float:
    """Return Akaike's criterion, corrected for few points (Hurvich and Tsai, Biometrika 1989)."""
    n, k = len(errors), numbers + 1
    spread = max(float(np.mean(errors**2)), 1e-12)
    return n * float(np.log(spread)) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 0.5)


def _range(values: Floats) -> Range:
    low, high = np.quantile(values[1:], [0.025, 0.975]) if len(values) > 1 else (values[0], values[0])
    return Range(mean=float(values[0]), low=float(low), high=float(high))


def summed(ious: Sequence[Floats], tracks: npt.NDArray[np.int64]) -> Floats:
    """Return the sums of each run's scores by track, (runs, tracks)."""
    count = int(tracks.max()) + 1
    return np.stack([np.bincount(tracks, row, minlength=count) for row in ious])
