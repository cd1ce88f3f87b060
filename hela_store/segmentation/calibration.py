"""Say when it doesn't know: how probable it is that a cell's mask is right, from what is known without labels.

A logistic regression on the decoder's predicted IoU, the detection's score, and how far mask, detected box and coarse
mask agree; fitted on the validation block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.files import write_atomic
from hela_store.errors import RunError
from hela_store.metrics.confidence import aurc, auroc, brier_skill, clopper_pearson
from hela_store.metrics.logistic import Logistic, fit_logistic
from hela_store.runs.finished import find_finished
from hela_store.runs.folder import RunInfo
from hela_store.store.store import Store

from .config import DetectedConfig

KIND = "calibration"
"""Kind of the runs that hold a calibration."""
FILE = "calibration.json"
FAILURE = 0.5
"""A cell is a failure if its mask's IoU with the cell it stands for is below; so is one that stands for none."""
FLAGGED = 0.05
"""Share of the cells that is flagged for review."""
BINS = 10
LEAST_FAILURES = 10
"""Failures, and right cells, that are needed to fit or judge a calibration: 2.5 for each sign it weighs."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration(Logistic):
    """Probability that a mask is right.

    Attributes
    ----------
    mean, scale, weights : (4,), by sign, as in :attr:`hela_store.segmentation.assemble.FoundCell.signs`
    bias : float
    review_below : cells of a lower probability are flagged: the lowest 5 % of the validation cells
    cells, failures : how many it was fitted on
    """

    review_below: float
    cells: int
    failures: int

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` into a run's folder."""
        write_atomic(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def load_calibration(run: RunInfo) -> Calibration:
    """Read what :meth:`Calibration.save` wrote into a run; RunError where it is missing or damaged."""
    try:
        raw: dict[str, Any] = json.loads(run.read(FILE) or b"")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        return Calibration(**plain)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{run.path / FILE} cannot be read ({error}); calibrate again") from None


def find_calibration(store: Store, config: DetectedConfig) -> Calibration | None:
    """Return the calibration that :func:`shipped_calibration` finds."""
    return shipped_calibration(store, config)[0]


def shipped_calibration(store: Store, config: DetectedConfig) -> tuple[Calibration | None, str]:
    """Return the latest calibration of these runs and this form, and a sentence that says which one it is.

    It is None where there is none, or where it was fitted on too few failures: earlier versions kept such ones.
    ``config`` has the whole ids of the runs: see :func:`hela_store.segmentation.resolve.resolve_prompts`.
    """
    names = ("checkpoint", "detector", "form")

    def same(info: RunInfo) -> bool:
        return all(info.config.get(name) == getattr(config, name) for name in names)

    info = find_finished(store.path, KIND, same)
    if info is None:
        return None, "none, so no cell is flagged as doubtful; `hela-store detect calibrate` makes one"
    found = load_calibration(info)
    if few := _few(found.failures, found.cells - found.failures):
        return None, f"{info.id} is not used, so no cell is flagged as doubtful: {few}"
    fitted = f"{found.failures} failures of {found.cells} validation cells"
    return found, f"{info.id}, cells below {found.review_below:.4f} are flagged, fitted on {fitted}"


def too_few(right: npt.ArrayLike) -> str:
    """Return why these cells cannot fit or judge a calibration; empty where they can."""
    truth = np.asarray(right, bool)
    return _few(int((~truth).sum()), int(truth.sum()))


def _few(failures: int, others: int) -> str:
    if min(failures, others) >= LEAST_FAILURES:
        return ""
    found = f"{failures} wrong masks and {others} right ones"
    return f"too few to calibrate: {found}, expected at least {LEAST_FAILURES} of each"


def fit(signs: npt.ArrayLike, right: npt.ArrayLike) -> Calibration:
    """Fit a calibration, see :func:`hela_store.metrics.logistic.fit_logistic`.

    Parameters
    ----------
    signs : float, (N, 4)
    right : bool, (N,)

    Raises
    ------
    RunError
        There is nothing to fit on.
    """
    values, truth = np.asarray(signs, float), np.asarray(right, float)
    if len(values) == 0:
        raise RunError("no cell was found on validation, so nothing can be calibrated; train the detector for longer")
    plain = Calibration(
        **asdict(fit_logistic(values, truth)), review_below=0.0, cells=len(truth), failures=int((truth == 0).sum())
    )
    limit = float(np.quantile(plain.probability(values), FLAGGED))
    return Calibration(**(asdict(plain) | {"review_below": limit}))


def expected_error(probability: Floats, right: npt.ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error (Guo et al., "On calibration", 2017, eq. 3), bins of equal width."""
    truth = np.asarray(right, float)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs(probability[index == b].sum() - truth[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(truth)) if len(truth) else float("nan")


def report(probability: Floats, right: npt.ArrayLike, ious: Sequence[float] | Floats) -> dict[str, Any]:
    """Describe a calibration on cells it was not fitted on.

    Returns
    -------
    dict
        ``n`` and ``failures``, cells and those that are failures; ``ece``; ``flagged``, the number of cells that are
        the 5 % of lowest probability, and ``caught``, the share of the failures among them, None without a failure;
        ``brier_skill``, ``auroc`` and ``aurc``, see :mod:`hela_store.metrics.confidence`, None where there are too few
        failures, which ``too_few`` then says; ``risk_coverage``, mean IoU and share of failures of the most probable
        10 % ... 100 %, with the exact 95 % interval of that share if cells were independent.
    """
    truth, values = np.asarray(right, bool), np.asarray(ious, float)
    order = np.argsort(-probability, kind="stable")
    flagged = order[len(order) - int(np.ceil(FLAGGED * len(order))) :]
    failures = int((~truth).sum())
    curve: list[dict[str, float]] = []
    for coverage in np.arange(1, 11) / 10:
        kept = order[: max(1, round(coverage * len(order)))] if len(order) else order
        if len(kept):
            risk = {"failures": float((~truth[kept]).mean()), "mean_iou": float(values[kept].mean())}
            low, high = clopper_pearson(int((~truth[kept]).sum()), len(kept))
            curve.append({"coverage": float(coverage), **risk, "failures_low": low, "failures_high": high})
    few = too_few(truth)
    measures = {"brier_skill": brier_skill, "auroc": auroc, "aurc": aurc}
    return {
        "n": len(truth),
        "failures": failures,
        "ece": expected_error(probability, truth),
        **{name: None if few else measure(probability, truth) for name, measure in measures.items()},
        "too_few": few,
        "flagged": len(flagged),
        "caught": float((~truth[flagged]).sum() / failures) if failures else None,
        "risk_coverage": curve,
    }
