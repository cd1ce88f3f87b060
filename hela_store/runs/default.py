"""Say which tuned decoder may stand in for the one an encoder came with: one that is higher on validation.

A fine-tuning is judged on validation tracks that did not choose its step (:mod:`hela_store.training.guard`). It may
stand in where the mean IoU rose there. A rise by chance does little harm: such a decoder is about as good as zero-shot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.metrics.intervals import Interval, Units, crossed_interval

from .folder import RunInfo, list_runs


def paired_change(before: npt.ArrayLike, after: npt.ArrayLike, units: Units) -> Interval:
    """Compare two decoders on the same validation prompts.

    One run has one training seed; how much seeds differ is not in this interval.

    Parameters
    ----------
    before, after : float64, (rows,)
        IoU by prompt.
    units : Units
        Of the rows.
    """
    return crossed_interval(np.asarray(after, float) - np.asarray(before, float), units).within(-1, 1)


def helped(change: Mapping[str, Any]) -> bool:
    """Return whether a change of IoU speaks for the tuned decoder: its mean is above 0.

    That is a decision, which has to be made with however few frames. A verdict is more, and needs more of them. Runs of
    the earliest versions have a verdict alone: "worse" was not accepted.
    """
    return bool(change.get("mean_change", 1.0) > 0) and change.get("verdict") != "worse"


def default_run(store_path: Path, encoder: str, prompt: str | None = None) -> RunInfo | None:
    """Return the latest fine-tuning of this encoder key that helped on validation, if any; it need not be the best.

    One whose best step is 0 is what it began with and did not help. With ``prompt`` it has to have helped for that
    kind, where it was judged on it; the latest of those tuned for that kind alone comes first, where there is one.
    """
    latest = None
    for run, result in _helpful(store_path, encoder):
        if not helped(result.get("kinds", {}).get(prompt, {})):
            continue
        if prompt in (None, run.config.get("prompt")):
            return run
        latest = latest or run
    return latest


def best_run(store_path: Path, run: RunInfo) -> tuple[RunInfo, float]:
    """Return the fine-tuning with the highest mean IoU on the validation cells of ``run``, and that IoU.

    Among those of the same encoder key, tuned for the same prompt and judged on the same cells and prompts; ``run``
    itself where none is higher.
    """
    mine = run.result()
    found = _helpful(store_path, run.encoder)
    same = [(other, result) for other, result in found if _judged_on(result) == _judged_on(mine)]
    best, result = max([(run, mine), *same], key=lambda pair: pair[1]["tuned"]["mean_iou"])
    return best, result["tuned"]["mean_iou"]


def _judged_on(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return what two results share only on the same cells and prompts, whatever the window: what needs no image."""
    return result["prompt"], *(result["zero_shot"][name] for name in ("n", "image_free_iou", "image_free_dice"))


def _helpful(store_path: Path, encoder: str) -> Iterator[tuple[RunInfo, dict[str, Any]]]:
    """Yield fine-tunings of an encoder key and their results, the newest first; those that `default_run` may take."""
    for run in reversed(list_runs(store_path, "finetune")):
        # a training on a budget of cells is a measurement: other trainings saw more, and were judged on other cells
        seeing = run.encoder == encoder and not run.config.get("blind") and not run.config.get("budget")
        result = run.result() if seeing else {}
        if result and helped(result) and result.get("best_step") != 0:
            yield run, result
