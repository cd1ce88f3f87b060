"""Choose the cell that is offered next: by a stated rule, and every fifth one at random as the control.

Candidates are the detector's proposals that nobody labelled yet, in the frame that is shown and in a few frames that
lie evenly over the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator

from .config import CONTROL
from .proposals import Proposal

WORDS = {
    "random": "at random",
    "doubt": "the proposal that is doubted most",
    "far": "the proposal whose vector is farthest from those of the cells taught",
}
"""The rules in words, as the page states them."""

Distance = Callable[[Sequence["Candidate"]], npt.NDArray[np.float64] | None]


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


def choose(candidates: Sequence[Candidate], rule: str, count: int, distance: Distance | None = None) -> Offer | None:
    """Choose the next cell; None where there is no candidate.

    Parameters
    ----------
    candidates : in a fixed order
    rule : ``"random"``, ``"doubt"`` or ``"far"``
    count : how many were offered before; it decides which one is the control, and what is drawn
    distance : of candidates to the cells taught, float64, (N,), or None while there are none, when the choice is
        random; needed for ``"far"``
    """
    if not candidates:
        return None
    is_control = rule == "random" or count % CONTROL == CONTROL - 1
    values = None if is_control else _values(candidates, rule, distance)
    if values is None:
        drawn = int(generator("teach next", count, len(candidates)).integers(len(candidates)))
        return Offer(candidate=candidates[drawn], rule=WORDS["random"], random=True)
    return Offer(candidate=candidates[int(values.argmax())], rule=WORDS[rule], random=False)


def _values(candidates: Sequence[Candidate], rule: str, distance: Distance | None) -> npt.NDArray[np.float64] | None:
    if rule == "doubt":
        return np.array([candidate.proposal.doubt for candidate in candidates])
    if distance is None:
        raise ValueError("the rule 'far' needs distances")
    return distance(candidates)


def spread(frames: Sequence[str], count: int) -> list[str]:
    """Return some of the frames that lie evenly over all of them."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[place] for place in np.unique(places)]
