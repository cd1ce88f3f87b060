"""``evaluate --prompt detected``: segmentation without ground truth, scored against it.

The detector's threshold, the decoder and the calibration are all chosen before; a cell that is missed has IoU 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

from hela_store.base.progress import Progress, silent
from hela_store.detection.frames import scorable_frames
from hela_store.errors import RunError
from hela_store.evaluation.covered import covered_frames, keep_frames
from hela_store.evaluation.frames import median_training_radius
from hela_store.evaluation.leaks import check_untouched
from hela_store.evaluation.reads import data_read, labels_read
from hela_store.evaluation.reuse import claim_scoring
from hela_store.evaluation.sequences import labels_of, sequence_scores
from hela_store.evaluation.subsets import pending_subsets
from hela_store.runs.folder import RunInfo, new_run
from hela_store.store.store import Store

from .calibration import FAILURE, KIND, Calibration, find_calibration, fit, too_few
from .config import DetectedConfig
from .resolve import DetectedPrompts, resolve_prompts
from .scores import DetectedResult, ScoredFrame, detected_result, judged_detections, score_frame, write_tables
from .stored import segmented_frames


def evaluate_detected(
    store: Store, config: DetectedConfig, *, fresh: bool = False, progress: Progress = silent
) -> DetectedResult:
    """Score label-free segmentation: every labelled cell of a block, missed cells at 0.

    As in :func:`hela_store.evaluation.evaluate.evaluate` a finished run of this very scoring is returned as it is,
    unless ``fresh``.

    Prompts and predictions are rows of prompt ``"detected"``, one a cell; all masks, false ones too, are the run's
    detections.

    Raises
    ------
    RunError, SplitError, StoreError
        No such run, one of another encoder, one that trained on these frames; no labelled frame; not embedded.
    """
    prompts = resolve_prompts(store, config)
    frames = _untouched_frames(store, prompts)
    split, checkpoint = prompts.config.split, prompts.checkpoint.id
    calibration = find_calibration(store, prompts.config)
    about = asdict(prompts.config) | {"encoder": store.key, "prompts": ["detected"], "seeds": [0]}
    about |= {"calibration": calibration and asdict(calibration), **data_read(store, ("train", split))}
    with claim_scoring(store, "evaluate", about, fresh=fresh, progress=progress) as done:
        if done is not None:
            return _complete(store, replace(DetectedResult.of(done), reused=True), done, progress)
        folder = new_run(store.path, "evaluate", about, parent=checkpoint, label=f"detected-{split}")
        with folder.tidied():
            scored = list(_scored_frames(store, prompts, frames, progress, f"evaluate {split}"))
            write_tables(folder, scored)
            keep_frames(folder, frames)
            result = detected_result(folder.id, prompts, scored, calibration)
            folder.log(result=result.to_json())
            folder.publish()
        return _complete(store, result, folder.info, progress)


def _complete(store: Store, result: DetectedResult, run: RunInfo, progress: Progress) -> DetectedResult:
    """Add what follows from the files of the published run."""
    subsets, pending = pending_subsets(store, run.id)
    sequences = sequence_scores(labels_of(store, run), progress)
    return replace(result, sequences=sequences, subsets=subsets.get("detected", {}), pending=pending)


def calibrate(store: Store, config: DetectedConfig, *, progress: Progress = silent) -> tuple[str, Calibration]:
    """Fit the calibration of a detector and a decoder on the validation block and keep it as a run; return both.

    Raises
    ------
    RunError, SplitError, StoreError
        As :func:`evaluate_detected`, or there are too few cells or failures to fit on.
    """
    prompts = resolve_prompts(store, replace(config, split="val"))
    frames = _untouched_frames(store, prompts)
    judged = judged_detections(list(_scored_frames(store, prompts, frames, progress, "calibrate")))
    right = [one.iou >= FAILURE for one in judged]
    found = fit([one.signs for one in judged], right)
    if few := too_few(right):
        raise RunError(f"{few}; add labelled validation frames, or segment without a calibration")
    return keep(store, prompts, found), found


def keep(store: Store, prompts: DetectedPrompts, found: Calibration) -> str:
    """Publish a calibration of these prompts as a run and return its id."""
    about = asdict(prompts.config) | {"encoder": store.key, "failure": FAILURE, **labels_read(store)}
    folder = new_run(store.path, KIND, about, parent=prompts.detector.id, label=prompts.config.form)
    with folder.tidied():
        found.save(folder.path)
        folder.publish()
    return folder.id


def _untouched_frames(store: Store, prompts: DetectedPrompts) -> list[str]:
    """Return the frames to score; refuse a decoder or a detector that learned from them."""
    split = prompts.config.split
    frames = _looked_at(store, prompts, scorable_frames(store, split))
    for run in (prompts.checkpoint.run, prompts.trained):
        check_untouched(store, run, frames, split)
    return frames


def _looked_at(store: Store, prompts: DetectedPrompts, frames: list[str]) -> list[str]:
    """Return the frames for which there are detections; refuse a detector's run that has not looked at all of them.

    A table of boxes says nothing of frames it has no box for, so these are left out.
    """
    run = prompts.detector
    if run.kind != "detect":
        return frames
    covered = set(covered_frames(store, run))
    there = [frame for frame in frames if frame in covered]
    split = prompts.config.split
    if not there or (run.parent is not None and len(there) < len(frames)):
        missing = next(frame for frame in frames if frame not in covered)
        raise RunError(
            f"run {run.id} did not look at {len(frames) - len(there)} of the {len(frames)} labelled frames of split "
            f"{split}, such as {missing}; detect there first"
        )
    return there


def _scored_frames(
    store: Store, prompts: DetectedPrompts, frames: list[str], progress: Progress, what: str
) -> Iterator[ScoredFrame]:
    radius = median_training_radius(store)
    for frame in progress(segmented_frames(store, prompts, frames), total=len(frames), what=what):
        yield score_frame(frame, prompts, radius)
