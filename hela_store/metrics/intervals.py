"""Intervals for mean differences (measuring rule 7): a bootstrap over frame blocks crossed with training seeds.

Cells of neighbouring frames are the same cells, and all cells of a run share its training: neither are independent
draws. Blocks of frames and training seeds are drawn with replacement, independently of each other, and a score counts
as often as its block times its seed was drawn (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 2007).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator

DRAWS = 10_000
BLOCK_FRAMES = 5
"""Frames of a block: a HeLa nucleus of Fluo-N2DL-HeLa (30 min a frame) divides, moves and changes over hours."""
BETTER_FROM = 0.005
"""What a difference has to exceed to be called better."""

Word = Literal["worse", "better", "no difference", "no interval"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval; both ends are NaN where there is but one block to draw from.

    Attributes
    ----------
    mean, low, high : float
    blocks, seeds : int
        How many of each there were to draw from; with one seed only blocks are drawn.
    """

    mean: float
    low: float
    high: float
    blocks: int
    seeds: int

    @property
    def word(self) -> Word:
        """Worse: wholly below 0; better: wholly above :data:`BETTER_FROM`; no interval: of one block."""
        if math.isnan(self.low):
            return "no interval"
        if self.high < 0:
            return "worse"
        return "better" if self.low > BETTER_FROM else "no difference"


def frame_blocks(frames: Sequence[tuple[str, int]], length: int = BLOCK_FRAMES) -> npt.NDArray[np.int64]:
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
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
    return 1.0 / np.bincount(index)[index]


def crossed_interval(
    values: Floats,
    blocks: npt.NDArray[np.int64],
    seeds: npt.NDArray[np.int64],
    weights: Floats | None = None,
    draws: int = DRAWS,
) -> Interval:
    """Return the weighted mean of ``values`` with its 95 % percentile interval.

    The draws depend on the numbers of blocks and seeds alone: the same data give the same interval.

    Parameters
    ----------
    values : float64, (rows,)
        At least one; differences, for :attr:`Interval.word` to mean something.
    blocks, seeds : int64, (rows,)
        Frame block and training seed of each row, any numbers.
    weights : float64, (rows,), optional
    draws : int
    """
    weights = np.ones(len(values)) if weights is None else weights
    row, column = (np.unique(part, return_inverse=True)[1] for part in (seeds, blocks))
    shape = int(row.max()) + 1, int(column.max()) + 1
    total, weight = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row, column), weights * values)
    np.add.at(weight, (row, column), weights)
    mean = float(total.sum() / weight.sum())
    if shape[1] < 2:
        return Interval(mean=mean, low=math.nan, high=math.nan, blocks=shape[1], seeds=shape[0])
    rng = generator("crossed interval", *shape)
    of_seeds, of_blocks = (rng.multinomial(n, np.full(n, 1 / n), draws).astype(float) for n in shape)
    counted = np.einsum("rs,sb,rb->r", of_seeds, weight, of_blocks, optimize=True)
    summed = np.einsum("rs,sb,rb->r", of_seeds, total, of_blocks, optimize=True)
    # a draw may hold no row at all where not every seed scored every block
    low, high = np.quantile(summed[counted > 0] / counted[counted > 0], [0.025, 0.975])
    return Interval(mean=mean, low=float(low), high=float(high), blocks=shape[1], seeds=shape[0])
