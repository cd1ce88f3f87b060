"""Mean scores by prompt kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hela_store.metrics.failures import FAILURES
from hela_store.metrics.overlap import skill

from .questions import Score
from .spread import FrameSpread, frame_spread


@dataclass(frozen=True, kw_only=True)
class PromptScore:
    """Means over the cells and seeds of one prompt kind.

    Attributes
    ----------
    n : predictions scored
    mean_iou, mean_dice : empty predictions count as 0
    empty : share of empty predictions
    image_free_iou, image_free_dice : of the answers that do not look at the image, to the same prompts
    skill : ``(IoU - IoU_free) / (1 - IoU_free)``, of the better of the image-free answers
    ellipse_iou : of the ellipse that a mask prompt's moments and the median training cell make, image-free as well;
        None for other kinds
    prompt_iou : mean IoU of mask prompts themselves; None for other kinds
    made_worse : share of mask prompts that were better than the answer; None for other kinds
    oracle_iou : with the best of three masks chosen by the truth: an oracle, never ranked; None where one was asked for
    mean_boundary_iou : None, as all that follow, where only overlaps were asked for
    mean_nsd1, mean_nsd2 : normalised surface Dice at 1 and 2 px
    mean_spill : share of the predicted pixels on other cells
    mean_hd95, median_hd95 : px; empty predictions count as the cell's diameter
    mean_hd95_worst : px; empty predictions count as the diagonal of their view, which no answer can exceed: the cell's
        diameter makes no answer cheaper than one in the wrong place
    mean_hd95_found, n_found : the mean without empty predictions, and how many that are
    failures : how many predictions failed each way, see :mod:`hela_store.metrics.failures`
    frames : IoU by frame: mean, median and quartiles of the frames' means
    """

    n: int
    mean_iou: float
    mean_dice: float
    empty: float
    image_free_iou: float
    image_free_dice: float
    skill: float
    prompt_iou: float | None = None
    made_worse: float | None = None
    oracle_iou: float | None = None
    ellipse_iou: float | None = None
    mean_boundary_iou: float | None = None
    mean_nsd1: float | None = None
    mean_nsd2: float | None = None
    mean_spill: float | None = None
    mean_hd95: float | None = None
    median_hd95: float | None = None
    mean_hd95_worst: float | None = None
    mean_hd95_found: float | None = None
    n_found: int | None = None
    failures: dict[str, int] | None = None
    frames: FrameSpread | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without what there is not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, logged: Mapping[str, Any]) -> PromptScore:
        """Return the score that a log holds, where a number that is none is null."""
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in logged.items()}
        return cls(**values)


def summarise(scores: Iterable[Score]) -> dict[str, PromptScore]:
    """Return the means by prompt kind, in the order the kinds appear."""
    kinds: dict[str, list[Score]] = {}
    for score in scores:
        kinds.setdefault(score.question.prompt.kind, []).append(score)
    return {kind: mean_score(part) for kind, part in kinds.items()}


def mean_score(scores: Sequence[Score]) -> PromptScore:
    """Return the means over all scores, whatever their kinds."""
    iou, free = np.mean([s.iou for s in scores]), np.mean([s.question.free.iou for s in scores])
    own = [(s.prompt_iou, s.iou < s.prompt_iou) for s in scores if s.prompt_iou is not None]
    oracle = [s.oracle_iou for s in scores if s.oracle_iou is not None]
    ellipses = [s.question.ellipse.iou for s in scores if s.question.ellipse is not None]
    ellipse = float(np.mean(ellipses)) if len(ellipses) == len(scores) else None
    return PromptScore(
        n=len(scores),
        mean_iou=float(iou),
        mean_dice=float(np.mean([s.dice for s in scores])),
        empty=float(np.mean([s.prediction.is_empty for s in scores])),
        image_free_iou=float(free),
        image_free_dice=float(np.mean([s.question.free.dice for s in scores])),
        skill=skill(float(iou), max(float(free), ellipse or 0.0)),
        ellipse_iou=ellipse,
        prompt_iou=float(np.mean([iou for iou, _ in own])) if own else None,
        made_worse=float(np.mean([worse for _, worse in own])) if own else None,
        oracle_iou=float(np.mean(oracle)) if len(oracle) == len(scores) else None,
        frames=frame_spread(np.array([s.iou for s in scores], np.float64), [s.question.cell.frame for s in scores]),
        **_detail_means([s for s in scores if s.detail is not None]),
    )


_MEANS = ("boundary_iou", "nsd1", "nsd2", "spill")


def _detail_means(scores: Sequence[Score]) -> dict[str, Any]:
    details = [score.detail for score in scores if score.detail is not None]
    if not details:
        return {}
    distances = [d.hd95 for d in details if d.failure != "empty"]
    empty = [
        math.hypot(*s.question.tile.rect[2:]) for s, d in zip(scores, details, strict=True) if d.failure == "empty"
    ]
    counted = Counter(d.failure for d in details)
    return {
        **{f"mean_{name}": float(np.mean([getattr(d, name) for d in details])) for name in _MEANS},
        "mean_hd95": float(np.mean([d.hd95 for d in details])),
        "median_hd95": float(np.median([d.hd95 for d in details])),
        "mean_hd95_worst": float(np.mean(distances + empty)),
        "mean_hd95_found": float(np.mean(distances)) if distances else None,
        "n_found": len(distances),
        "failures": {name: counted[name] for name in FAILURES},
    }
