"""Score a label-free segmentation against the ground truth, frame by frame, and in the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.aliases import BoolArray
from hela_store.detection.box_scores import FramePairs, count, mean_accuracy
from hela_store.detection.detections import Detections
from hela_store.detection.frames import FrameTruth
from hela_store.detection.rows import detection_rows
from hela_store.evaluation.frames import FrameCells, context_of
from hela_store.evaluation.rows import DETECTION_SCHEMA, PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.sequences import SequenceScores
from hela_store.evaluation.subsets import SubsetScore
from hela_store.images.rle import encode
from hela_store.metrics.cell import score_cell
from hela_store.metrics.failures import label_areas
from hela_store.metrics.matching import countable, mask_ious, match
from hela_store.metrics.overlap import overlap
from hela_store.prompts.image_free import image_free_score
from hela_store.runs.folder import RunFolder, RunInfo
from hela_store.store.records import CellRecord

from .assemble import FoundCell, prompt_of
from .calibration import FAILURE, Calibration, report
from .resolve import DetectedPrompts


@dataclass(frozen=True, kw_only=True)
class SegmentedFrame:
    """A stored frame, segmented without its labels.

    Attributes
    ----------
    truth : the frame and its labels
    found : detections that count
    label : int32, (row, col); the cell at index i has label i + 1
    cells : list of FoundCell
    """

    truth: FrameTruth
    found: Detections
    label: npt.NDArray[np.int32]
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
    pq, sq, rq : panoptic, segmentation and recognition quality at mask IoU 0.5
    msa : mean of TP / (TP + FP + FN) over the mask IoUs 0.50 to 0.95
    mean_iou, mean_dice : per cell, missed cells at 0
    mean_iou_found : over cells found
    calibration : ECE, risk-coverage and share of failures caught; None without a calibration of these runs
    subsets : means over touching, dim, and bright and small cells
    sequences : SEG, DET and count errors; None until the run is published
    pending : why the catalog, which ``subsets`` come from, cannot be read now; empty where it can
    reused : whether the run was finished before it was asked for
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
    pq: float
    sq: float
    rq: float
    msa: float
    mean_iou: float
    mean_dice: float
    mean_iou_found: float
    calibration: dict[str, Any] | None
    subsets: dict[str, SubsetScore] = field(default_factory=dict)
    sequences: SequenceScores | None = None
    pending: str = ""
    reused: bool = False

    @classmethod
    def of(cls, run: RunInfo) -> DetectedResult:
        """Return what the log of a published run says of it; what follows from its other files is left open."""
        logged = run.result()
        names = [each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING]
        # the mean over no cell is NaN, which JSON has as null
        own: dict[str, Any] = {
            name: math.nan if logged[name] is None and name != "calibration" else logged[name] for name in names
        }
        return cls(**own)

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --prompt detected --json`` prints."""
        sequences = None if self.sequences is None else self.sequences.to_json()["sequences"]
        return asdict(self) | {"sequences": sequences}


@dataclass(frozen=True, kw_only=True)
class ScoredDetection:
    """A detection beside the truth.

    Attributes
    ----------
    row : its row of ``detections.parquet``
    signs : as in :attr:`hela_store.segmentation.assemble.FoundCell.signs`
    iou : IoU with the cell it is matched with, 0 without one
    judged : it is matched with a cell, or it lies where the labels say that there is none
    is_cell : it is matched with a cell at IoU 0.5
    recovered : only a neighbouring frame led to it
    """

    row: dict[str, Any]
    signs: list[float]
    iou: float
    judged: bool
    is_cell: bool
    recovered: bool


@dataclass(frozen=True, kw_only=True)
class ScoredCell:
    """A labelled cell, found or missed: its rows of ``prompts.parquet`` and ``predictions.parquet``."""

    prompt: dict[str, Any]
    prediction: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScoredFrame:
    """A segmented frame beside its truth.

    Attributes
    ----------
    pairs, before : all masks, and all but the recovered ones, with the cells
    detections : one for each mask
    cells : one for each labelled cell
    """

    pairs: FramePairs
    before: FramePairs
    detections: list[ScoredDetection]
    cells: list[ScoredCell]


def score_frame(frame: SegmentedFrame, prompts: DetectedPrompts, radius: float) -> ScoredFrame:
    """Match the cells of a frame with its truth, one to one by mask IoU.

    Parameters
    ----------
    frame : the segmented frame
    prompts : what it was segmented with
    radius : median radius of the training cells, px
    """
    truth, shape = frame.truth, frame.truth.frame.shape
    found = frame.found.take([cell.number for cell in frame.cells])
    found = replace(found, masks=tuple(encode(cell.mask, cell.origin, shape) for cell in frame.cells))
    ious = mask_ious(found.masks, truth.frame.label, truth.labels)
    counted = countable(found.boxes, truth.valid)
    # recovered cells take only what others leave: without them the others are as they are
    own = np.array([not cell.recovered for cell in frame.cells], bool)
    pairs, half = match(ious), match(ious, 0.5)
    detections = [
        ScoredDetection(
            row=row,
            signs=cell.signs,
            iou=float(pairs.iou[i]),
            judged=bool(pairs.partner[i] >= 0 or counted[i]),
            is_cell=bool(half.partner[i] >= 0),
            recovered=cell.recovered,
        )
        for i, (cell, row) in enumerate(zip(frame.cells, detection_rows(found, truth, prompts.threshold), strict=True))
    ]
    partner = {int(cell): i for i, cell in enumerate(pairs.partner) if cell >= 0}
    areas = label_areas(truth.frame.label)
    answers = [
        _missed() if j not in partner else _answer(frame, cell, partner[j], prompts.config.form, radius)
        for j, cell in enumerate(truth.frame.cells)
    ]
    return ScoredFrame(
        pairs=FramePairs(scores=np.ones(len(found)), ious=ious, counted=counted),
        before=FramePairs(scores=np.ones(own.sum()), ious=ious[own], counted=counted[own]),
        detections=detections,
        cells=[
            _scored_cell(truth.frame, cell, answer, prompts.detector.id, areas)
            for cell, answer in zip(truth.frame.cells, answers, strict=True)
        ],
    )


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """The mask for a cell, empty where it was missed, and what the prompt and the mask add to the rows."""

    mask: BoolArray
    origin: tuple[int, int]
    prompt: dict[str, Any]
    scores: dict[str, Any]


def _missed() -> _Answer:
    scores = {"iou": 0.0, "dice": 0.0, "predicted_iou": 0.0, "is_empty": True}
    prompt = {"free_iou": 0.0, "free_dice": 0.0}
    return _Answer(mask=np.zeros((0, 0), bool), origin=(0, 0), prompt=prompt, scores=scores)


def _answer(frame: SegmentedFrame, cell: CellRecord, i: int, form: str, radius: float) -> _Answer:
    part, made = frame.truth.frame, frame.cells[i]
    prompt, context = prompt_of(frame.found, made.number, form, part.shape), context_of(part, cell)
    shared = overlap(made.mask, context.mask, made.origin, context.origin)
    free = image_free_score(prompt, context.mask, context.origin, radius, part.shape)
    row: dict[str, Any] = {"free_iou": free.iou, "free_dice": free.dice}
    if prompt.box is not None:
        row |= dict(zip(("x0", "y0", "x1", "y1"), map(float, prompt.box), strict=True))
    if prompt.points is not None:
        row |= {"points": [float(v) for v in prompt.points.ravel()], "point_labels": [1]}
    scores = {"iou": shared.iou, "dice": shared.dice, "predicted_iou": made.predicted_iou, "is_empty": False}
    return _Answer(mask=made.mask, origin=made.origin, prompt=row, scores=scores)


def _scored_cell(
    frame: FrameCells, cell: CellRecord, answer: _Answer, detector: str, areas: dict[int, int]
) -> ScoredCell:
    place = {"cell": cell.cell, "frame": frame.frame, "view": None}
    about = {"kind": "detected", "origin": detector, "prompt_seed": 0, "split": frame.split, "cut": False}
    rle = encode(answer.mask, answer.origin, frame.shape)
    detail = score_cell(answer.mask, answer.origin, frame.label, cell.label, cell.box, areas)
    mask = {"rle": rle.counts, "rle_height": rle.height, "rle_width": rle.width}
    return ScoredCell(prompt=place | about | answer.prompt, prediction=place | answer.scores | mask | asdict(detail))


def write_tables(folder: RunFolder, frames: Sequence[ScoredFrame]) -> None:
    """Write the tables of a run: a prompt and a prediction for each cell, and all detections."""
    cells = [cell for frame in frames for cell in frame.cells]
    number = [{"prompt_id": f"{i:06d}"} for i in range(len(cells))]
    tables = {
        "prompts": ([n | cell.prompt for n, cell in zip(number, cells, strict=True)], PROMPT_SCHEMA),
        "predictions": ([n | cell.prediction for n, cell in zip(number, cells, strict=True)], PREDICTION_SCHEMA),
        "detections": ([one.row for frame in frames for one in frame.detections], DETECTION_SCHEMA),
    }
    for name, (rows, schema) in tables.items():
        folder.write_table(name, pa.Table.from_pylist(rows, schema))


def judged_detections(frames: Sequence[ScoredFrame]) -> list[ScoredDetection]:
    """Return the detections that are right or wrong, which a calibration is fitted on and judged by."""
    return [one for frame in frames for one in frame.detections if one.judged]


def detected_result(
    run: str, prompts: DetectedPrompts, frames: Sequence[ScoredFrame], calibration: Calibration | None
) -> DetectedResult:
    """Return the means over frames."""
    pairs = [frame.pairs for frame in frames]
    at = count(pairs, 0.5, 0.5)
    predictions = [cell.prediction for frame in frames for cell in frame.cells]
    recovered = [one for frame in frames for one in frame.detections if one.recovered]
    judged = judged_detections(frames)
    described = None
    if calibration is not None and judged:
        right = [one.iou >= FAILURE for one in judged]
        described = report(calibration.probability([one.signs for one in judged]), right, [one.iou for one in judged])
    return DetectedResult(
        run=run,
        checkpoint=prompts.checkpoint.name,
        detector=prompts.detector.id,
        split=prompts.config.split,
        frames=len(frames),
        cells=len(predictions),
        missed=at.fn,
        false=at.fp,
        recovered=len(recovered),
        recovered_right=sum(one.is_cell for one in recovered),
        precision=at.precision,
        recall=at.recall,
        recall_before=count([frame.before for frame in frames], 0.5, 0.5).recall,
        f1=at.f1,
        f1_70=count(pairs, 0.5, 0.7).f1,
        pq=at.pq,
        sq=at.sq,
        rq=at.rq,
        msa=mean_accuracy(pairs, 0.5),
        mean_iou=_mean([row["iou"] for row in predictions]),
        mean_dice=_mean([row["dice"] for row in predictions]),
        mean_iou_found=_mean([row["iou"] for row in predictions if not row["is_empty"]]),
        calibration=described,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
