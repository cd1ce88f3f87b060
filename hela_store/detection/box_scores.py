"""Say how good detections are: counts, curves, average precision, and recall of parts of the cells."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.metrics.matching import match

THRESHOLDS = (0.5, 0.7)
"""IoUs at which counts are given."""
ACCURACY_IOUS = np.round(np.arange(0.5, 0.96, 0.05), 2)
"""IoUs that :func:`mean_accuracy` averages over."""
CONFIDENCES = np.round(np.arange(0.05, 0.96, 0.05), 2)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FramePairs:
    """All that scores need of one frame.

    Attributes
    ----------
    scores : float64, (N,), of detections
    ious : float64, (N, M), of detections with cells, by box or by mask
    counted : bool, (N,), whether a detection counts as false where it has no cell (rule "valid pixels")
    """

    scores: Floats
    ious: Floats
    counted: BoolArray


@dataclass(frozen=True, kw_only=True)
class Counts:
    """True and false positives and missed cells; as a confusion matrix there are no true negatives.

    Attributes
    ----------
    tp, fp, fn : int
    iou : mean IoU of the pairs; NaN without any
    """

    tp: int
    fp: int
    fn: int
    iou: float

    @property
    def precision(self) -> float:
        """Share of detections that are cells; 0 without detections."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """Share of cells that were found; 0 without cells."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        """``2 TP / (2 TP + FP + FN)``; 0 where there is nothing."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 0.0

    @property
    def rq(self) -> float:
        """Recognition quality, the same as F1 (Kirillov et al., "Panoptic segmentation", 2019, eq. 2)."""
        return self.f1

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the pairs; 0 without any."""
        return self.iou if self.tp else 0.0

    @property
    def pq(self) -> float:
        """Panoptic quality: SQ times RQ."""
        return self.sq * self.rq

    @property
    def accuracy(self) -> float:
        """``TP / (TP + FP + FN)``; 0 where there is nothing."""
        total = self.tp + self.fp + self.fn
        return self.tp / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return counts and what follows from them."""
        follows = ("precision", "recall", "f1", "pq", "sq", "rq")
        return asdict(self) | {name: getattr(self, name) for name in follows}


def found_cells(frame: FramePairs, confidence: float, iou: float) -> tuple[BoolArray, int, Floats]:
    """Return which cells are found, how many detections are false, and the IoUs of the pairs."""
    kept = frame.scores >= confidence
    pairs = match(frame.ious[kept], iou)
    found = np.zeros(frame.ious.shape[1], bool)
    hit = pairs.partner >= 0
    found[pairs.partner[hit]] = True
    return found, int((~hit & frame.counted[kept]).sum()), pairs.iou[hit]


def count(frames: Sequence[FramePairs], confidence: float, iou: float) -> Counts:
    """Count over frames: detections of at least this confidence, pairs of at least this IoU."""
    tp = fp = cells = 0
    shared: list[Floats] = []
    for frame in frames:
        found, false, ious = found_cells(frame, confidence, iou)
        tp, fp, cells = tp + int(found.sum()), fp + false, cells + len(found)
        shared.append(ious)
    every = np.concatenate([np.zeros(0), *shared])
    return Counts(tp=tp, fp=fp, fn=cells - tp, iou=float(every.mean()) if len(every) else float("nan"))


def mean_accuracy(frames: Sequence[FramePairs], confidence: float) -> float:
    """Return mSA: the mean of TP / (TP + FP + FN) over the IoUs 0.50, 0.55, ... 0.95.

    Counted over all frames together. Schmidt et al., "StarDist", 2018, call the values average precision.
    """
    return float(np.mean([count(frames, confidence, float(iou)).accuracy for iou in ACCURACY_IOUS]))


def curve(
    frames: Sequence[FramePairs], iou: float = 0.5, confidences: npt.ArrayLike = CONFIDENCES
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 against confidence."""
    return [{"confidence": float(c), **count(frames, float(c), iou).to_json()} for c in np.asarray(confidences, float)]


def best_confidence(frames: Sequence[FramePairs]) -> tuple[float, float]:
    """Return the confidence with the best mean F1 at the two IoUs, and that F1; of equals the middle one."""
    scores = np.array([[count(frames, float(c), iou).f1 for iou in THRESHOLDS] for c in CONFIDENCES]).mean(1)
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(CONFIDENCES[best[len(best) // 2]]), float(scores.max())


def recall_by(
    frames: Sequence[FramePairs], groups: Sequence[Mapping[str, BoolArray]], confidence: float, iou: float = 0.5
) -> dict[str, dict[str, float]]:
    """Return the recall, and the number of cells, of named groups of cells.

    Parameters
    ----------
    groups : for each frame, bool (M,) by name: which cells belong to the group
    """
    out: dict[str, list[int]] = {}
    for frame, named in zip(frames, groups, strict=True):
        found, _, _ = found_cells(frame, confidence, iou)
        for name, member in named.items():
            total = out.setdefault(name, [0, 0])
            total[0] += int(found[member].sum())
            total[1] += int(member.sum())
    return {name: {"recall": hit / n if n else float("nan"), "n": n} for name, (hit, n) in out.items()}


def average_precision(
    detections: Sequence[tuple[Floats, Floats]], truths: Sequence[Floats], countable: Sequence[BoolArray]
) -> dict[str, float]:
    """Return COCO's AP50, AP75 and AP50:95 of boxes, by pycocotools, with no limit on detections a frame.

    A detection that is no cell's (box IoU below 0.5 with all) and lies mostly on pixels that say nothing is left out
    (rule "valid pixels").

    Parameters
    ----------
    detections : boxes (N, 4) ``(x0, y0, x1, y1)`` px and scores (N,), by frame
    truths : boxes (M, 4), by frame
    countable : bool, (N,), by frame
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from hela_store.images.boxes import box_iou

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, ((boxes, scores), truth, counted) in enumerate(zip(detections, truths, countable, strict=True), 1):
        for box in _xywh(truth):
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(about | {"bbox": box, "area": box[2] * box[3]})
        near = box_iou(boxes, truth).max(1, initial=0.0) >= 0.5
        for box, score, kept in zip(_xywh(boxes), scores.tolist(), near | counted, strict=True):
            if kept:
                results.append({"image_id": number, "category_id": 1, "bbox": box, "score": score})
    if not annotations or not results:
        return {"ap50": 0.0, "ap75": 0.0, "ap50_95": 0.0}
    coco = COCO()
    images = [{"id": number} for number in range(1, len(truths) + 1)]
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = COCO()
        every = [{"id": i, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0, **r} for i, r in enumerate(results, 1)]
        found.dataset = coco.dataset | {"annotations": every}
        found.createIndex()
        scored = COCOeval(coco, found, "bbox")
        scored.params.maxDets = [max(len(boxes) for boxes, _ in detections)]
        scored.params.areaRng, scored.params.areaRngLbl = [[0, 1e10]], ["all"]
        scored.evaluate()
        scored.accumulate()
    precision = scored.eval["precision"][:, :, 0, 0, 0].mean(1)
    return {"ap50": float(precision[0]), "ap75": float(precision[5]), "ap50_95": float(precision.mean())}


def _xywh(boxes: Floats) -> list[list[float]]:
    return [[float(v) for v in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in boxes]
