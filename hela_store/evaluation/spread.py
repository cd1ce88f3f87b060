"""Say how scores spread over frames: mean, median and quartiles of the frames' means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.metrics.intervals import numbered


@dataclass(frozen=True, kw_only=True)
class FrameSpread:
    """Mean, median and quartiles over the means of frames, each frame counted once however many cells it has."""

    n: int
    mean: float
    median: float
    low_quartile: float
    high_quartile: float


def frame_spread(values: npt.NDArray[np.float64], frames: Sequence[str]) -> FrameSpread:
    """Return the spread over frames.

    Parameters
    ----------
    values : float64, (rows,)
    frames : frame of each row
    """
    index = numbered(frames)
    means = np.bincount(index, values) / np.bincount(index)
    low, middle, high = np.quantile(means, [0.25, 0.5, 0.75])
    return FrameSpread(
        n=len(means),
        mean=float(means.mean()),
        median=float(middle),
        low_quartile=float(low),
        high_quartile=float(high),
    )
