"""Which tuned decoder may stand in for the one an encoder came with: none that is worse on validation.

Measuring rule 7: *worse* is an interval of the paired change wholly below 0, *better* one wholly above 0.005.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.metrics.intervals import Interval, crossed_interval

from .folder import RunInfo, list_runs


def paired_change(before: npt.ArrayLike, after: npt.ArrayLike, frames: Sequence[str]) -> Interval:
    """Compare two decoders on the same cells and prompts of the validation block.

    Cells of one frame are not independent, so whole frames are drawn again; a validation block is too short for blocks
    of frames. One run has one training seed; how much seeds differ is not in this interval.

    Parameters
    ----------
    before, after : IoU by cell
    frames : of each cell
    """
    change: npt.NDArray[np.float64] = np.asarray(after, float) - np.asarray(before, float)
    _, index = np.unique(np.asarray(frames), return_inverse=True)
    return crossed_interval(change, index, np.zeros_like(index))


def default_run(store_path: Path, encoder: str, prompt: str | None = None) -> RunInfo | None:
    """Return the latest fine-tuning of this encoder key that learned something and is not worse than zero-shot, if any.

    Both on validation: one whose best step is 0 is what it began with. With ``prompt`` the latest of those tuned for
    that kind alone, where there is one.
    """
    latest = None
    for run, _ in _not_worse(store_path, encoder):
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
    found = _not_worse(store_path, run.encoder)
    same = [(other, result) for other, result in found if _judged_on(result) == _judged_on(mine)]
    best, result = max([(run, mine), *same], key=lambda pair: pair[1]["tuned"]["mean_iou"])
    return best, result["tuned"]["mean_iou"]


def _judged_on(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return what two results share only on the same cells and prompts, whatever the window: what needs no image."""
    return result["prompt"], *(result["zero_shot"][name] for name in ("n", "image_free_iou", "image_free_dice"))


def _not_worse(store_path: Path, encoder: str) -> Iterator[tuple[RunInfo, dict[str, Any]]]:
    """Yield fine-tunings of an encoder key and their results, the newest first; those that `default_run` may take."""
    for run in reversed(list_runs(store_path, "finetune")):
        result = run.result() if run.encoder == encoder else {}
        if result and result.get("verdict") != "worse" and result.get("best_step") != 0:
            yield run, result
