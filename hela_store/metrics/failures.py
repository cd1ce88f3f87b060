"""Say which way a prediction failed: one word a cell, by written rules.

With P the predicted pixels, T the pixels of the cell that was asked for, and other cells as the frame's labels have
them, the first rule that holds gives the word:

1. ``empty``: P has no pixel.
2. ``wrong cell``: another cell holds more pixels of P than T does, and less than half of T is predicted.
3. ``merged``: at least 20 % of another cell's area is predicted (the study's rule).
4. ``leak``: more pixels of P are on background than 30 % of T's area; also a P that hits background alone.
5. ``under-segmented``: less than 70 % of T is predicted.
6. ``fragmented``: the largest piece of P (8 neighbours) has less than 90 % of its pixels.

Otherwise the word is ``""``. The rules ask for pixels, not for a score: a prediction without a word can still have a
moderate IoU (leak and loss both just below their limits: 0.54), and one on partial gold truth may be said to leak where
it covers a cell that nobody drew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray

Failure = Literal["", "empty", "wrong cell", "merged", "leak", "under-segmented", "fragmented"]
FAILURES: tuple[Failure, ...] = ("empty", "wrong cell", "merged", "leak", "under-segmented", "fragmented")

WRONG_BELOW = 0.5
MERGED_FROM = 0.2
LEAK_ABOVE = 0.3
UNDER_BELOW = 0.7
PIECE_BELOW = 0.9

_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Describe where a prediction lies, and the word for it.

    Attributes
    ----------
    failure : one of :data:`FAILURES`, or ``""``
    spill : share of the predicted pixels that lie on other cells, 0..1; 0 of an empty prediction
    """

    failure: Failure
    spill: float


def label_areas(labels: LabelArray) -> dict[int, int]:
    """Return the pixels of each cell of a frame, int labels (row, col); background, 0, is left out."""
    found, counts = np.unique(labels[labels > 0], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def judge(predicted: BoolArray, labels: LabelArray, label: int, areas: dict[int, int]) -> Verdict:
    """Say how the prediction for one cell failed, by the rules above.

    Parameters
    ----------
    predicted : bool, (row, col)
        A crop that holds the whole prediction.
    labels : integer, (row, col)
        The frame's labels in the same crop; cells may reach beyond it.
    label : int
        The cell that was asked for.
    areas : dict of label to px
        Of whole cells, as :func:`label_areas` counts them.
    """
    under = labels[predicted]
    if not len(under):
        return Verdict(failure="empty", spill=0.0)
    found, counts = np.unique(under, return_counts=True)
    hits: dict[int, int] = dict(zip(found.tolist(), counts.tolist(), strict=True))
    background, own = hits.pop(0, 0), hits.pop(label, 0)
    word = _word(own / areas[label], own, background / areas[label], hits, areas)
    if not word and _largest_piece(predicted) < PIECE_BELOW * len(under):
        word = "fragmented"
    return Verdict(failure=word, spill=sum(hits.values()) / len(under))


def _word(covered: float, own: int, leak: float, others: dict[int, int], areas: dict[int, int]) -> Failure:
    if max(others.values(), default=0) > own and covered < WRONG_BELOW:
        return "wrong cell"
    if any(count >= MERGED_FROM * areas[other] for other, count in others.items()):
        return "merged"
    if leak > LEAK_ABOVE or (own == 0 and not others):
        return "leak"
    return "under-segmented" if covered < UNDER_BELOW else ""


def _largest_piece(mask: BoolArray) -> int:
    pieces: npt.NDArray[np.int32] = ndimage.label(mask, _EIGHT)[0]
    return int(np.bincount(pieces[mask]).max())
