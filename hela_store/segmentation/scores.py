"""What a label-free segmentation scores: its cells beside the truth, frame by frame, and the means."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.aliases import BoolArray
from hela_store.detection.box_scores import FramePairs, count
from hela_store.detection.detections import Detections
from hela_store.detection.frames import FrameTruth
from hela_store.detection.rows import detection_rows
from hela_store.evaluation.frames import context_of
from hela_store.evaluation.rows import DETECTION_SCHEMA, PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.sequences import SequenceScores
from hela_store.evaluation.subsets import SubsetScore
from hela_store.images.rle import encode
from hela_store.metrics.cell import score_cell
from hela_store.metrics.failures import label_areas
from hela_store.metrics.matching import countable, mask_ious, most_pairs
from hela_store.metrics.overlap import overlap
from hela_store.prompts.image_free import image_free_score
from hela_store.runs.folder import RunFolder

from .assemble import FoundCell, prompt_of
from .calibration import FAILURE, Calibration, report
from .config import DetectedConfig


@dataclass(frozen=True, kw_only=True)
class SegmentedFrame:
    """A stored frame, segmented without its labels.

    Attributes
    ----------
    truth : the frame and its labels
    found : detections that count
    label : uint16, (row, col); the cell at index i has label i + 1
    cells : list of FoundCell
    """

    truth: FrameTruth
    found: Detections
    label: npt.NDArray[np.uint16]
    cells: list[FoundCell]


@dataclass(frozen=True, kw_only=True)
class DetectedResult:
    """An evaluation of detected prompts.

    Attributes
    ----------
    run, checkpoint, detector, split : of the new run, and what it used
    frames, cells, missed, false : counts; a cell is found, or a mask false, at mask IoU 0.5
    recovered, recovered_right : masks that only neighbouring frames led to, and how many of them are cells
    precision, recall, f1 : at mask IoU 0.5
    recall_before : without the recovered cells; equal to ``recall`` where nothing was to be recovered
    f1_70 : at mask IoU 0.7
    mean_iou, mean_dice : per cell, missed cells at 0
    mean_iou_found : over cells found
    calibration : ECE, risk-coverage and share of failures caught; None without a calibration of these runs
    subsets : means over touching, dim, and bright and small cells
    sequences : SEG, DET and count errors; None until the run is published
    """

    run: str
    checkpoint: str
    detector: str
    split: str
    frames: int
    cells: int
    missed: int
    false: int
    recovered: int
    recovered_right: int
    precision: float
    recall: float
    recall_before: float
    f1: float
    f1_70: float
    mean_iou: float
    mean_dice: float
    mean_iou_found: float
    calibration: dict[str, Any] | None
    subsets: dict[str, SubsetScore] = field(default_factory=dict)
    sequences: SequenceScores | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --prompt detected --json`` prints."""
        sequences = None if self.sequences is None else self.sequences.to_json()["sequences"]
        return asdict(self) | {"sequences": sequences}


class Scored:
    """What was found, frame by frame, beside the truth."""

    def __init__(self) -> None:
        self.pairs: list[FramePairs] = []
        self.before: list[FramePairs] = []
        self.detections: list[dict[str, Any]] = []
        self.prompts: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.signs: list[list[float]] = []
        self.right: list[bool] = []
        self.ious: list[float] = []
        self.recovered: list[bool] = []

    def add(self, frame: SegmentedFrame, config: DetectedConfig, radius: float) -> None:
        """Match the cells of a frame with its truth, one to one by mask IoU."""
        truth, shape = frame.truth, frame.truth.frame.shape
        found = frame.found.take([cell.number for cell in frame.cells])
        found = replace(found, masks=tuple(encode(cell.mask, cell.origin, shape) for cell in frame.cells))
        ious = mask_ious(found.masks, truth.frame.label, truth.labels)
        counted = countable(found.boxes, truth.valid)
        self.pairs.append(FramePairs(scores=np.ones(len(found)), ious=ious, counted=counted))
        # recovered cells take only what others leave: without them the others are as they are
        own = np.array([not cell.recovered for cell in frame.cells], bool)
        self.before.append(FramePairs(scores=np.ones(own.sum()), ious=ious[own], counted=counted[own]))
        assert config.threshold is not None
        self.detections += detection_rows(found, truth, config.threshold)
        pairs = most_pairs(ious)
        partner = {int(cell): i for i, cell in enumerate(pairs.partner) if cell >= 0}
        half = most_pairs(ious, 0.5)
        self.recovered += [bool(half.partner[i] >= 0) for i, cell in enumerate(frame.cells) if cell.recovered]
        for i, cell in enumerate(frame.cells):
            if pairs.partner[i] >= 0 or counted[i]:
                self.signs.append(cell.signs)
                self.ious.append(float(pairs.iou[i]))
                self.right.append(bool(pairs.iou[i] >= FAILURE))
        areas = label_areas(truth.frame.label)
        for j in range(len(truth.frame.cells)):
            mask, origin = self._add_cell(frame, j, partner.get(j), config, radius)
            row = truth.frame.cells[j]
            asked = row["label"], (row["x0"], row["y0"], row["x1"], row["y1"])
            self.predictions[-1] |= asdict(score_cell(mask, origin, truth.frame.label, asked, areas))

    def _add_cell(
        self, frame: SegmentedFrame, j: int, i: int | None, config: DetectedConfig, radius: float
    ) -> tuple[BoolArray, tuple[int, int]]:
        part, cell = frame.truth.frame, frame.truth.frame.cells[j]
        number = f"{len(self.prompts):06d}"
        shared = {"prompt_id": number, "cell": cell["cell"], "frame": part.frame, "view": None}
        row: dict[str, Any] = {"kind": "detected", "origin": config.detector, "prompt_seed": 0, "split": part.split}
        row |= {"free_iou": 0.0, "free_dice": 0.0, "cut": False}
        answer: dict[str, Any] = {"iou": 0.0, "dice": 0.0, "predicted_iou": 0.0, "is_empty": True}
        mask, origin = np.zeros((0, 0), bool), (0, 0)
        if i is not None:
            made = frame.cells[i]
            prompt, context = prompt_of(frame.found, made.number, config.form), context_of(part, cell)
            mask, origin = made.mask, made.origin
            shared_px = overlap(mask, context.mask, origin, context.origin)
            free = image_free_score(prompt, context.mask, context.origin, radius, part.shape)
            row |= {"free_iou": free[0], "free_dice": free[1]}
            if prompt.box is not None:
                row |= dict(zip(("x0", "y0", "x1", "y1"), map(float, prompt.box), strict=True))
            if prompt.points is not None:
                row |= {"points": [float(v) for v in prompt.points.ravel()], "point_labels": [1]}
            answer = {"iou": shared_px.iou, "dice": shared_px.dice, "is_empty": False}
            answer |= {"predicted_iou": made.predicted_iou}
        rle = encode(mask, origin, part.shape)
        self.prompts.append(shared | row)
        self.predictions.append(shared | answer | {"rle": rle.counts, "rle_height": rle.height, "rle_width": rle.width})
        return mask, origin

    def write(self, folder: RunFolder) -> None:
        """Write the run's tables."""
        for name, rows, schema in (
            ("prompts", self.prompts, PROMPT_SCHEMA),
            ("predictions", self.predictions, PREDICTION_SCHEMA),
            ("detections", self.detections, DETECTION_SCHEMA),
        ):
            folder.write_table(name, pa.Table.from_pylist(rows, schema))

    def result(
        self, run: str, config: DetectedConfig, detector: str, calibration: Calibration | None
    ) -> DetectedResult:
        """Return the means."""
        at = count(self.pairs, 0.5, 0.5)
        ious = np.array([row["iou"] for row in self.predictions])
        found = ious[[not row["is_empty"] for row in self.predictions]] if len(ious) else ious
        described = None
        if calibration is not None and self.signs:
            described = report(calibration.probability(self.signs), self.right, self.ious)
        return DetectedResult(
            run=run,
            checkpoint=config.checkpoint or "zero-shot",
            detector=detector,
            split=config.split,
            frames=len(self.pairs),
            cells=len(ious),
            missed=at.fn,
            false=at.fp,
            recovered=len(self.recovered),
            recovered_right=sum(self.recovered),
            precision=at.precision,
            recall=at.recall,
            recall_before=count(self.before, 0.5, 0.5).recall,
            f1=at.f1,
            f1_70=count(self.pairs, 0.5, 0.7).f1,
            mean_iou=float(ious.mean()) if len(ious) else float("nan"),
            mean_dice=float(np.mean([row["dice"] for row in self.predictions])) if len(ious) else float("nan"),
            mean_iou_found=float(found.mean()) if len(found) else float("nan"),
            calibration=described,
        )
