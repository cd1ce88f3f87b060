"""Choose the cell that is offered next: by a stated rule, and every fifth one at random as the control.

Candidates are the detector's proposals that nobody labelled yet, in the frame that is shown and in a few frames that
lie evenly over the store. A rule measures them, see :mod:`hela_store.teaching.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator

from .config import CONTROL
from .proposals import Proposal

AT_RANDOM = "at random"
"""How the control is chosen, in words."""

Measure = Callable[[Sequence["Candidate"]], npt.NDArray[np.float64] | None]
"""Returns a value for each candidate, float64, (N,), of which the highest is offered; None where it cannot be told."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A proposal that may be offered, and the frame it is in."""

    frame: str
    proposal: Proposal


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A cell that is offered.

    Attributes
    ----------
    candidate : Candidate
    rule : the rule in words
    random : whether it is the control
    """

    candidate: Candidate
    rule: str
    random: bool


def choose(candidates: Sequence[Candidate], words: str, count: int, measure: Measure | None) -> Offer | None:
    """Choose the next cell; None where there is no candidate.

    Parameters
    ----------
    candidates : in a fixed order
    words : the rule in words, as the page states it
    count : how many were offered before; it decides which one is the control, and what is drawn
    measure : the candidate with the highest value is offered; where it is None or returns None, one at random
    """
    if not candidates:
        return None
    is_control = measure is None or count % CONTROL == CONTROL - 1
    values = None if is_control or measure is None else measure(candidates)
    if values is None:
        drawn = int(generator("teach next", count, len(candidates)).integers(len(candidates)))
        return Offer(candidate=candidates[drawn], rule=AT_RANDOM, random=True)
    return Offer(candidate=candidates[int(values.argmax())], rule=words, random=False)


def spread(frames: Sequence[str], count: int) -> list[str]:
    """Return some of the frames that lie evenly over all of them."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[place] for place in np.unique(places)]
