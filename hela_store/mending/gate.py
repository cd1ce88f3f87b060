"""The gate: how probable it is that an answer is better than the mask it was asked for with, from signs without labels.

A logistic regression on the decoder's predicted IoU, how far answer and mask agree, how steady the answer is when the
prompt moves a little, and how much steeper the image is along the new edge. It is fitted on validation cells. Which
probability lets an answer pass is chosen there, too, on cells that did not fit it: the one of the greatest gain, of
those that make at most :data:`HARM` of the masks worse by more than :data:`NOTICEABLE`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hela_store.base.files import write_atomic
from hela_store.base.rng import generator
from hela_store.errors import RunError
from hela_store.metrics.logistic import Logistic, fit_logistic

from .answers import Answer

FILE = "gate.json"
HARM = 0.01
"""Largest share of validation masks that may become worse by more than :data:`NOTICEABLE`."""
NOTICEABLE = 0.02
"""Change of IoU that counts as worse or better."""
LEAST = 10
"""Fewer masks whose answer is better, or is not, are too few to fit a gate on."""
FOLDS = 5
SURE = 0.1
"""Share of the validation answers whose predicted IoU is lower than what a split or merge needs."""
OWN = 50
"""From so many of the tool's own masks on validation frames on, these alone choose the threshold."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A mask, its answer and the truth of a validation cell.

    Attributes
    ----------
    answer : Answer
    before, after : float
        IoU of the mask and of the answer with the cell.
    unit : int
        What belongs together: the track of the cell.
    own : bool
        Whether the mask is the tool's, not one that was drawn.
    """

    answer: Answer
    before: float
    after: float
    unit: int
    own: bool


@dataclass(frozen=True, kw_only=True)
class Gate(Logistic):
    """A fitted gate.

    Attributes
    ----------
    mean, scale, weights : (5,)
        By sign, as in :attr:`hela_store.mending.answers.Answer.signs`.
    bias : float
    threshold : float
        Probability from which an answer replaces the mask.
    sure_from : float
        Predicted IoU that both answers of a split, or the answer of a merge, must have.
    masks, own : int
        Validation masks it was fitted on, and those of them that are the tool's.
    judged : int
        Those that the threshold was chosen on.
    before, after : float
        Their mean IoU before and after, each judged by a gate that other cells were fitted on.
    worse : float
        Share of them that became worse by more than :data:`NOTICEABLE`.
    """

    threshold: float
    sure_from: float
    masks: int
    own: int
    judged: int
    before: float
    after: float
    worse: float

    def probabilities(self, answers: Sequence[Answer]) -> list[float]:
        """Return the probability of each answer to be better than its mask; 0 for an empty one."""
        if not answers:
            return []
        found = self.probability([answer.signs for answer in answers]).tolist()
        return [p if answer.new.mask.any() else 0.0 for p, answer in zip(found, answers, strict=True)]

    def save(self, folder: Path) -> None:
        """Write ``gate.json`` into a run's folder."""
        write_atomic(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def fit_gate(judged: Sequence[Judged]) -> Gate:
    """Fit a gate on validation masks and choose its threshold.

    Raises
    ------
    RunError
        Too few answers are better than their mask, or too few are not.
    """
    rows = [one for one in judged if one.answer.new.mask.any()]
    change = np.array([one.after - one.before for one in rows])
    better = change > 0
    if min(int(better.sum()), int((~better).sum())) < LEAST:
        raise RunError(
            f"the gate cannot be calibrated: of {len(rows)} validation masks {int(better.sum())} have a better answer, "
            f"expected at least {LEAST} with and {LEAST} without one; {_way_out(int(better.sum()))}"
        )
    own = np.array([one.own for one in rows])
    choosing = own if int(own.sum()) >= OWN else np.ones(len(rows), bool)
    signs = np.array([one.answer.signs for one in rows])
    apart = _crossed(signs, better, np.array([one.unit for one in rows]))
    threshold = _threshold(apart[choosing], change[choosing])
    passed = (apart >= threshold) & choosing
    before = np.array([one.before for one in rows])
    predicted = [one.answer.predicted_iou for one in rows]
    return Gate(
        **asdict(fit_logistic(signs, better)),
        threshold=threshold,
        sure_from=float(np.quantile(predicted, SURE)),
        masks=len(rows),
        own=int(own.sum()),
        judged=int(choosing.sum()),
        before=float(before[choosing].mean()),
        after=float((before + np.where(passed, change, 0.0))[choosing].mean()),
        worse=float((passed & (change < -NOTICEABLE)).sum() / choosing.sum()),
    )


def _way_out(better: int) -> str:
    more = "label more validation frames"
    if better >= LEAST:
        return more
    return f"the decoder hardly improves masks like these: fine-tune it (hela-store finetune --prompt mask), or {more}"


def _crossed(signs: Floats, better: npt.NDArray[np.bool_], units: npt.NDArray[np.int64]) -> Floats:
    """Return the probability of each row from a regression that was fitted on other units."""
    kinds = np.unique(units)
    if len(kinds) < 2:
        raise RunError(
            "the gate cannot be calibrated: all validation masks are of one track, so none can judge a gate that the "
            "others fitted; label more validation cells"
        )
    fold_of = dict(zip(generator("gate").permutation(kinds).tolist(), np.arange(len(kinds)) % FOLDS, strict=True))
    folds = np.array([fold_of[unit] for unit in units.tolist()])
    found = np.zeros(len(units))
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any() and (~inside).any():
            found[inside] = fit_logistic(signs[~inside], better[~inside]).probability(signs[inside])
    return found


def _threshold(probability: Floats, change: Floats) -> float:
    """Return the lowest probability that passes: the one with the greatest gain of those that make few masks worse."""
    order = np.argsort(-probability, kind="stable")
    harm = np.cumsum(change[order] < -NOTICEABLE) / len(order)
    gain = np.cumsum(change[order])
    allowed = np.flatnonzero((harm <= HARM) & (gain > 0))
    if not len(allowed):
        return float(np.nextafter(probability.max(), 2.0))
    return float(probability[order[allowed[np.argmax(gain[allowed])]]])
