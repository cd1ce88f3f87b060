"""Say how well a probability tells right answers from failures.

An expected calibration error says little where failures are rare: a constant has one of almost 0. So the Brier score
stands beside that of the constant, and how well failures are ranked beside chance.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

from hela_store.base.aliases import BoolArray

Floats = npt.NDArray[np.float64]


def brier_skill(probability: Floats, right: BoolArray) -> float:
    """Return ``1 - Brier / Brier of the constant``, the constant being the share that is right; NaN if all are alike.

    0 is what knowing nothing of single cells has, 1 is certainty, below 0 is worse than the constant (Brier 1950;
    Murphy 1973).
    """
    truth = right.astype(float)
    constant = float(np.mean((truth.mean() - truth) ** 2)) if len(truth) else 0.0
    return 1 - float(np.mean((probability - truth) ** 2)) / constant if constant else math.nan


def auroc(probability: Floats, right: BoolArray) -> float:
    """Return the chance that a right answer has a higher probability than a failure, ties half; NaN without either."""
    rights, failures = int(right.sum()), int((~right).sum())
    if not (rights and failures):
        return math.nan
    return float((rankdata(probability)[right].sum() - rights * (rights + 1) / 2) / (rights * failures))


def aurc(probability: Floats, right: BoolArray) -> float:
    """Return the area under the curve of risk against coverage: mean share of failures in the k most probable, all k.

    Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017. Where probabilities are equal, each
    order of theirs is as good as another, so failures among them are spread evenly.
    """
    order = np.argsort(-probability, kind="stable")
    wrong = (~right[order]).astype(float)
    _, tie = np.unique(-probability[order], return_inverse=True)
    wrong = (np.bincount(tie, wrong) / np.bincount(tie))[tie]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))) if len(wrong) else math.nan


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson, Biometrika 1934); 0 to 1 where ``n`` is 0."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high
