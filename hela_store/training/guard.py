"""The guard: did fine-tuning help, judged on cells that did not choose which step is kept.

The best of several steps scores too high on the cells that it was chosen on: chance chose it, too. So the tracks of the
validation block are halved. One half chooses the step. The other, of other cells, judges the decoder beside the one it
began with: over all prompts, and for each kind of prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator
from hela_store.evaluation.questions import Question, Score
from hela_store.evaluation.tracks import CellTracks, cell_tracks
from hela_store.metrics.intervals import LEAST_BLOCKS, Units
from hela_store.runs.default import helped, paired_change
from hela_store.store.store import Store

NOTICEABLE = 0.01
"""Change of a cell's IoU above which the cell counts as better or worse."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Describe how IoU changed from zero-shot to tuned, on the judging half of the validation tracks.

    Attributes
    ----------
    n : prompts judged
    mean_change, low, high : mean paired change of IoU and its 95 % interval; NaN where there is one track or frame
    better, worse : share of prompts whose IoU rose or fell by more than :data:`NOTICEABLE`
    verdict : ``"better"``, ``"worse"``, ``"equivalent"`` or ``"undecided"``, for this decoder (one training
        seed); ``""`` without an interval, with fewer than five groups of neighbouring frames, and of cells that
        chose the step
    """

    n: int
    mean_change: float
    low: float
    high: float
    better: float
    worse: float
    verdict: str

    @property
    def helped(self) -> bool:
        """Whether the tuned decoder may stand in for zero-shot, whatever the verdict: the mean rose."""
        return helped(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Validation prompts by what they are for.

    Attributes
    ----------
    choosing, judging : list of Question
        Of disjoint tracks; the same ones where the block holds a single cell.
    units : str
        How many tracks each half holds, and how these were found.
    tracks : CellTracks
    """

    choosing: list[Question]
    judging: list[Question]
    units: str
    tracks: CellTracks

    @classmethod
    def of(cls, store: Store, questions: Sequence[Question]) -> Halves:
        """Halve the tracks of the cells that are asked for; of a single image the cells."""
        tracks = cell_tracks(store, list({question.cell.frame for question in questions}))
        of = {question.cell.cell: tracks.of[question.cell.cell] for question in questions}
        if len(set(of.values())) < 2:
            of = {cell: number for number, cell in enumerate(of)}
            tracks = replace(tracks, of=of, alone=True)
        first = half(set(of.values()))
        choosing = [question for question in questions if of[question.cell.cell] in first]
        judging = [question for question in questions if of[question.cell.cell] not in first] or choosing
        units = f"{len(set(of.values()) - first)} {tracks.counted} judged, {len(first)} others chose the step; {tracks}"
        units = units if len(set(of.values())) > 1 else "a single cell chose the step and judged it"
        return cls(choosing=choosing, judging=judging, units=units, tracks=tracks)

    @classmethod
    def undivided(cls, store: Store, questions: list[Question], units: str) -> Halves:
        """Let all questions both choose and judge: of a small budget of cells, no half can be spared."""
        tracks = cell_tracks(store, list({question.cell.frame for question in questions}))
        return cls(choosing=questions, judging=questions, units=f"{units}; {tracks}", tracks=tracks)

    def changes(self, before: Sequence[Score], after: Sequence[Score]) -> tuple[Change, dict[str, Change]]:
        """Return the change over all judging prompts, and by prompt kind; scores in the order of ``judging``."""
        ious = np.array([[score.iou for score in scores] for scores in (before, after)], np.float64)
        cells = [score.question.cell.cell for score in before]
        kinds = np.array([score.question.prompt.kind for score in before])
        units = self.tracks.units(cells)
        parts = {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
        kinds_of = {kind: change(ious[0, rows], ious[1, rows], units.take(rows)) for kind, rows in parts.items()}
        whole = change(ious[0], ious[1], units)
        if self.choosing is self.judging:  # what chose the step gives numbers, and no verdict
            whole, kinds_of = replace(whole, verdict=""), {k: replace(v, verdict="") for k, v in kinds_of.items()}
        return whole, kinds_of


def half(tracks: set[int]) -> set[int]:
    """Return the half of the tracks that chooses: drawn by number, the larger one of an odd count."""
    order = sorted(tracks, key=lambda track: (generator("guard", track).random(), track))
    return set(order[: (len(order) + 1) // 2])


def change(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], units: Units) -> Change:
    """Return how IoU changed; ``before`` and ``after`` are those of the same prompts, float64, (rows,)."""
    found, moved = paired_change(before, after, units), after - before
    return Change(
        n=len(moved),
        mean_change=found.mean,
        low=found.low,
        high=found.high,
        better=float(np.mean(moved > NOTICEABLE)),
        worse=float(np.mean(moved < -NOTICEABLE)),
        verdict=found.standing if found.blocks >= LEAST_BLOCKS else "",
    )
