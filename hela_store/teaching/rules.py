"""The rules by which the next cell is chosen: what each measures, and which proposals have to be there for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from hela_store.errors import RecipeError
from hela_store.evaluation.checkpoint import Checkpoint, resolve_checkpoint
from hela_store.metrics.overlap import overlap
from hela_store.store.store import Store

from .config import RULES
from .decode import Decoding
from .far import Taught, distances
from .next_cell import AT_RANDOM, Candidate, Measure
from .proposals import Proposal, Proposals

Values = npt.NDArray[np.float64]
Needs = Callable[[str], list[tuple[Proposals, str]]]

WORDS = {
    "random": AT_RANDOM,
    "doubt": "the proposal that is doubted most",
    "far": "the proposal whose vector is farthest from those of the cells taught",
    "disagreement": "the proposal that this decoder and the one before it draw most differently",
    "time": "the proposal that fits least to those of the frames before and after",
}
"""The rules in words, as the page states them."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Describe how the next cell is chosen.

    Attributes
    ----------
    name : ``"random"``, ``"doubt"``, ``"far"``, ``"disagreement"`` or ``"time"``
    measure : the candidate with the highest value is next; None for ``"random"``
    needs : which proposals of which frames the candidates of a frame are measured with, their own first
    """

    name: str
    measure: Measure | None
    needs: Needs

    @property
    def words(self) -> str:
        """The rule as the page states it."""
        return WORDS[self.name]


def rule_of(name: str, store: Store, proposals: Proposals, decoding: Decoding, taught: Taught) -> Rule:
    """Return a rule; RecipeError where there is none of this name.

    Parameters
    ----------
    name : one of ``RULES``
    store : whose frames are taught
    proposals : by the decoder that answers
    decoding : it answers
    taught : returns the cells that were taught, (frame, its label image, their labels) for each frame
    """

    def own(frame: str) -> list[tuple[Proposals, str]]:
        return [(proposals, frame)]

    if name == "disagreement":
        pair = Disagreement(store, proposals, decoding)
        return Rule(name=name, measure=pair, needs=pair.needs)
    if name == "time":
        series = Time(store, proposals, decoding)
        return Rule(name=name, measure=series, needs=series.needs)
    measures: dict[str, Measure | None] = {
        "random": None,
        "doubt": lambda candidates: np.array([candidate.proposal.doubt for candidate in candidates]),
        "far": lambda candidates: distances(decoding, taught(), candidates),
    }
    if name not in measures:
        raise RecipeError(f"the rule is {name!r}, expected one of {', '.join(RULES)}")
    return Rule(name=name, measure=measures[name], needs=own)


class Kept:
    """Values of the proposals of each frame, by detection, kept while they stay what they are."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, dict[int, float]]] = {}

    def of(self, candidates: Sequence[Candidate], state: str, make: Callable[[str], dict[int, float]]) -> Values:
        """Return the value of each candidate, float64, (N,); those of a frame are made again in another state."""
        for frame in dict.fromkeys(candidate.frame for candidate in candidates):
            if self._values.get(frame, ("", {}))[0] != state:
                self._values[frame] = (state, make(frame))
        # a candidate that another decoder made a moment ago may be missing: it is not offered
        return np.array([self._values[each.frame][1].get(each.proposal.detection, 0.0) for each in candidates])


class Disagreement:
    """Measures how differently two decoders draw the same detection: the one that answers and the one before it.

    "Before" is the decoder from which the fine-tuning of the present one began. The value is 1 less the IoU of the two
    masks, and 1 where the decoder before proposes nothing for the detection.

    Parameters
    ----------
    store : Store
    proposals : by the decoder that answers
    decoding : it answers
    """

    def __init__(self, store: Store, proposals: Proposals, decoding: Decoding) -> None:
        self._store, self._proposals, self._decoding = store, proposals, decoding
        self._other: tuple[str, Proposals] | None = None
        self._kept = Kept()
        self._loading = Lock()

    def __call__(self, candidates: Sequence[Candidate]) -> Values | None:
        """Return a value for each candidate, float64, (N,); None where no fine-tuning stands behind the decoder."""
        other = self._before()
        if other is None:
            return None
        decoder = self._decoding.checkpoint.name
        return self._kept.of(candidates, decoder, lambda frame: self._made(frame, other))

    def _made(self, frame: str, other: Proposals) -> dict[int, float]:
        drawn = {each.detection: each for each in other.of(frame)}
        return {
            own.detection: 1 - (_iou(own, drawn[own.detection]) if own.detection in drawn else 0.0)
            for own in self._proposals.of(frame)
        }

    def needs(self, frame: str) -> list[tuple[Proposals, str]]:
        """Return the proposals by both decoders."""
        other = self._before()
        return [(self._proposals, frame)] + ([] if other is None else [(other, frame)])

    def _before(self) -> Proposals | None:
        checkpoint = self._decoding.checkpoint
        if checkpoint.run is None:
            return None
        with self._loading:
            if self._other is None or self._other[0] != checkpoint.name:
                before = self._checkpoint_before(checkpoint)
                self._other = (checkpoint.name, self._proposals.by(Decoding(before, self._decoding.device)))
            return self._other[1]

    def _checkpoint_before(self, checkpoint: Checkpoint) -> Checkpoint:
        assert checkpoint.run is not None
        return resolve_checkpoint(self._store, checkpoint.run.config["init"])


class Time:
    """Measures how little a proposal fits to those of the frames before and after it.

    The value is 1 less the IoU with the best-fitting proposal of a neighbouring frame, the mean of both neighbours
    where there are two, and 0 where there is none. A cell that moves, divides, merges or is missed next to it is high.

    Parameters
    ----------
    store : Store
    proposals : by the decoder that answers
    decoding : it says which frames are embedded
    """

    def __init__(self, store: Store, proposals: Proposals, decoding: Decoding) -> None:
        self._proposals, self._decoding = proposals, decoding
        self._kept = Kept()
        self._stills = store.recipe.dataset.stills
        self._frames = store.frame_records

    def __call__(self, candidates: Sequence[Candidate]) -> Values | None:
        """Return a value for each candidate, float64, (N,); None where no frame has a neighbour in time."""
        near = {frame: self._near(frame) for frame in dict.fromkeys(candidate.frame for candidate in candidates)}
        if not any(near.values()):
            return None
        decoder = self._decoding.checkpoint.name
        return self._kept.of(candidates, f"{decoder} {near}", lambda frame: self._made(frame, near[frame]))

    def _made(self, frame: str, near: Sequence[str]) -> dict[int, float]:
        others = [self._proposals.of(each) for each in near]
        return {
            own.detection: 1 - float(np.mean([_fit(own, there) for there in others])) if others else 0.0
            for own in self._proposals.of(frame)
        }

    def needs(self, frame: str) -> list[tuple[Proposals, str]]:
        """Return the proposals of a frame and of its neighbours."""
        return [(self._proposals, each) for each in (frame, *self._near(frame))]

    def _near(self, frame: str) -> list[str]:
        """Return the embedded frames of the same size right before and after a frame; none for stills."""
        if self._stills:
            return []
        records = self._frames()
        own = records[frame]
        places = {record.time: record for record in records.values() if record.sequence == own.sequence}
        near = [places.get(own.time - 1), places.get(own.time + 1)]
        return [
            record.frame
            for record in near
            if record is not None and record.shape == own.shape and self._decoding.is_embedded(record.frame)
        ]


def _fit(own: Proposal, others: Sequence[Proposal]) -> float:
    """Return the IoU with the one that fits best."""
    return max((_iou(own, each) for each in others), default=0.0)


def _iou(one: Proposal, other: Proposal) -> float:
    for axis, size in ((0, 1), (1, 0)):  # a look at the corners spares most pairs the pixels
        start = max(one.origin[axis], other.origin[axis])
        end = min(one.origin[axis] + one.mask.shape[size], other.origin[axis] + other.mask.shape[size])
        if end <= start:
            return 0.0
    return overlap(one.mask, other.mask, one.origin, other.origin).iou
