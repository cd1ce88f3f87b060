"""Say how good a detection run is, by box and by mask, and which cells it misses. No detector runs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError
from hela_store.evaluation.covered import covered_frames
from hela_store.runs.folder import RunInfo, load_run
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .box_scores import THRESHOLDS, FramePairs, average_precision, count, curve, recall_by
from .detect import threshold_of
from .detections import no_detections
from .frames import box_pairs, cell_groups, fifths, mask_pairs, scorable_frames, truths
from .rows import read_detections


@dataclass(frozen=True, kw_only=True)
class DetectionReport:
    """Scores of a detection run.

    Attributes
    ----------
    run, split : what was scored
    threshold : score from which a detection counts
    frames, cells : how many
    boxes, masks : counts, precision, recall, F1 and mean IoU of pairs by IoU threshold, ``"0.5"`` and ``"0.7"``; masks
        are empty where the detector gives none
    ap50, ap75, ap50_95 : COCO's, of boxes over all scores
    confusion : ``cell``/``background`` truth by ``cell``/``background`` detected, at box IoU 0.5
    recall_by : recall and number of cells of groups, at box IoU 0.5
    curve : precision, recall and F1 by confidence, at box IoU 0.5
    seconds_per_frame, seconds_per_view : of the detector; None where it did not run here
    """

    run: str
    split: str
    threshold: float
    frames: int
    cells: int
    boxes: dict[str, dict[str, Any]]
    masks: dict[str, dict[str, Any]]
    ap50: float
    ap75: float
    ap50_95: float
    confusion: dict[str, dict[str, int | None]]
    recall_by: dict[str, dict[str, float]]
    curve: list[dict[str, Any]]
    seconds_per_frame: float | None
    seconds_per_view: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store detect evaluate --json`` prints."""
        return asdict(self)


def evaluate_detections(
    store: Store,
    run: str = "latest",
    *,
    split: str | None = None,
    threshold: float | None = None,
    progress: Progress = silent,
) -> DetectionReport:
    """Score a detection run against the labels.

    Parameters
    ----------
    run : of kind ``"detect"``
    split : part of its frames; None for all that it looked at
    threshold : in place of the run's own

    Raises
    ------
    RunError, SplitError
        No such run; no labelled frame that it looked at.
    """
    info = load_run(store.path, run, "detect")
    found = read_detections(info)
    split = split or info.split or "all"
    frames = _frames(store, info, split)
    threshold = threshold_of(info) if threshold is None else threshold
    limits = fifths(store, frames)
    boxes, masks, groups, raw, truth_boxes = [], [], [], [], []
    for truth in progress(truths(store, frames), total=len(frames), what="evaluate"):
        detections = found.get(truth.frame.frame, no_detections())
        boxes.append(box_pairs(detections, truth))
        if any(mask is not None for mask in detections.masks):
            masks.append(mask_pairs(detections, truth))
        groups.append(cell_groups(truth.frame.cells, limits))
        raw.append((detections.boxes, detections.scores))
        truth_boxes.append(truth.boxes)
    precision = average_precision(raw, truth_boxes, [pairs.counted for pairs in boxes])
    at = count(boxes, threshold, 0.5)
    times = info.result()
    return DetectionReport(
        run=info.id,
        split=split,
        threshold=threshold,
        frames=len(frames),
        cells=at.tp + at.fn,
        boxes=_counts(boxes, threshold),
        masks=_counts(masks, threshold) if len(masks) == len(frames) else {},
        confusion={
            "cell": {"detected": at.tp, "missed": at.fn},
            "background": {"detected": at.fp, "missed": None},  # there is no number of true negatives
        },
        recall_by=recall_by(boxes, groups, threshold),
        curve=curve(boxes),
        seconds_per_frame=times.get("seconds_per_frame"),
        seconds_per_view=times.get("seconds_per_view"),
        **precision,
    )


def _frames(store: Store, info: RunInfo, split: str) -> list[str]:
    """Return the labelled frames of a split that a run looked at; RunError where there are none."""
    if info.split not in (split, "all"):
        raise RunError(f"run {info.id} looked at split {info.split}, not at {split}; detect there first")
    looked = set(covered_frames(store, info))
    frames = [frame for frame in scorable_frames(store, split) if frame in looked]
    if not frames:
        raise RunError(f"run {info.id} looked at no labelled frame of split {split}; choose another split")
    return frames


def _counts(frames: Sequence[FramePairs], threshold: float) -> dict[str, dict[str, Any]]:
    return {f"{iou:g}": count(frames, threshold, iou).to_json() for iou in THRESHOLDS}


def describe_boxes(store: Store, split: str = "train", bins: int = 20) -> dict[str, Any]:
    """Describe the boxes a detector learns from: histograms of sizes and positions (a correlogram's panels).

    Returns
    -------
    dict
        ``n``; ``edges`` and ``counts`` (two axes) for each pair of ``width``, ``height`` (px), ``cx``, ``cy`` (share of
        the frame's width and height), and the quantiles of each.

    Raises
    ------
    SplitError
        No labelled frame.
    """
    frames = store.frame_records()
    chosen = set(scorable_frames(store, split))
    values: dict[str, list[float]] = {"cx": [], "cy": [], "width": [], "height": []}
    for cell in CellRecord.of(store.cells_table()):
        if cell.frame in chosen:
            frame = frames[cell.frame]
            values["cx"].append((cell.x0 + cell.x1) / 2 / frame.width)
            values["cy"].append((cell.y0 + cell.y1) / 2 / frame.height)
            values["width"].append(cell.x1 - cell.x0)
            values["height"].append(cell.y1 - cell.y0)
    names, panels = list(values), {}
    for i, first in enumerate(names):
        for second in names[:i]:
            counts, x, y = np.histogram2d(values[second], values[first], bins=bins)
            panels[f"{second},{first}"] = {"counts": counts.astype(int).tolist(), "x": x.tolist(), "y": y.tolist()}
    quantiles = {name: np.quantile(v, [0, 0.05, 0.5, 0.95, 1]).tolist() if v else [] for name, v in values.items()}
    return {"split": split, "n": len(values["cx"]), "quantiles": quantiles, "panels": panels}
