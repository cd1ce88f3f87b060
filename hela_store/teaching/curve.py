"""The learning curve of a session, and what more cells are expected to add."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hela_store.metrics.intervals import Units, crossed_interval, numbered
from hela_store.studies.curves import LEAST_BUDGETS, Scores, fit, summed

MORE = (20, 40)
"""Cells that are looked ahead."""

Step = tuple[int, npt.NDArray[np.float64]]
"""Cells that a decoder learned from, 0 for zero-shot, and its IoU on the prompts that judge, float64, (rows,)."""


def curve_of(steps: Sequence[Step], units: Units) -> list[list[float | None]]:
    """Return (cells, mean IoU, low, high) of each decoder; None where there is no interval.

    Parameters
    ----------
    steps : all on the same prompts
    units : of these prompts
    """
    found = [(cells, crossed_interval(ious, units).within(0, 1)) for cells, ious in steps]
    return [[cells, one.mean, finite(one.low), finite(one.high)] for cells, one in found]


def ahead_of(steps: Sequence[Step], units: Units) -> list[list[float]]:
    """Return (cells more, IoU, low, high, gain, low, high) by the fit of :func:`hela_store.studies.curves.fit`.

    Empty where too few decoders learned from different numbers of cells.
    """
    tuned = [step for step in steps if step[0]]
    if not tuned:
        return []
    tracks = numbered(units.track.tolist())
    budget = np.array([cells for cells, _ in tuned], np.int64)
    curve = fit(
        Scores(
            budget=budget,
            seed=np.zeros(len(tuned), np.int64),
            sums=summed([ious for _, ious in tuned], tracks),
            counts=np.bincount(tracks).astype(float),
            zero=summed([steps[0][1]], tracks)[0],
        )
    )
    if curve is None:
        return []
    now, rows = int(budget.max()), []
    for cells in MORE:
        level, gain = curve.at(now + cells), curve.more(now, cells)
        rows.append([cells, level.mean, level.low, level.high, gain.mean, gain.low, gain.high])
    return rows


def forecast(ahead: Sequence[Sequence[float]], rounds: int) -> str:
    """Say what the most cells that are looked ahead are expected to add; after few ``rounds``, that it is too early."""
    if not ahead:
        return f"After {LEAST_BUDGETS} rounds the page says what more cells are expected to add." if rounds else ""
    cells, *_, gain, low, high = ahead[-1]
    return f"{cells:.0f} more cells: {gain:+.3f} expected (95 % band {low:+.3f} to {high:+.3f})."


def finite(value: float) -> float | None:
    """Return a number, None where it is NaN or infinite."""
    return float(value) if np.isfinite(value) else None
