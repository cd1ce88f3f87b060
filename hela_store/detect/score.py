"""``evaluate --prompt detected``: segmentation without ground truth, scored against it.

The detector's threshold, the decoder and the calibration are all chosen before; a cell that is missed has IoU 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import catalog
from ..errors import RunError
from ..image_free import image_free_score
from ..masks import encode
from ..metrics import overlap
from ..predict import DEFAULT_WINDOW, check_window
from ..progress import Progress, silent
from ..runs import RunFolder, RunInfo, list_runs, load_run, new_run
from ..sam.encoder import pick_device
from ..scoring import PREDICTION_SCHEMA, PROMPT_SCHEMA, context_of, median_training_radius
from ..store import Store
from ..tuned import decoder_of, store_of
from .assemble import FoundCell, decode_detections, prompt_of, resolve
from .calibrate import FAILURE, Calibration, fit, load_calibration, report
from .detections import Detections, join, no_detections
from .matching import countable, mask_ious, match
from .propose import detect_frame
from .rows import DETECTION_SCHEMA, detection_rows, read_detections
from .run import load_detector, threshold_of
from .scores import FramePairs, count
from .sequence import neighbours, proposals, recovered, with_neighbours
from .truth import FrameTruth, scorable_frames, tile_embeddings, truths

CALIBRATION = "calibration"
"""Kind of the runs that hold one."""


@dataclass(frozen=True, kw_only=True)
class DetectedConfig:
    """What is segmented and scored.

    Attributes
    ----------
    split : block
    checkpoint : a fine-tuning run whose decoder answers; None for zero-shot
    detector : a run of kind ``"detector"``, or of kind ``"detect"`` whose detections are taken as they are
    form : what of a detection the decoder is given: ``"box"``, ``"point"`` or ``"mask"``
    threshold : score from which a detection counts; None for the detector's own
    window : positions along each side that a prompt reads at least; None for the checkpoint's
    recover : whether cells that only neighbouring frames show are asked for
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    split: str = "test"
    checkpoint: str | None = None
    detector: str = "latest"
    form: str = "box"
    threshold: float | None = None
    window: int | None = None
    recover: bool = False
    device: str = "auto"


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
    f1_70 : at mask IoU 0.7
    mean_iou, mean_dice : per cell, missed cells at 0
    mean_iou_found : over cells found
    calibration : ECE, risk-coverage and share of failures caught; None without a calibration of these runs
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
    f1: float
    f1_70: float
    mean_iou: float
    mean_dice: float
    mean_iou_found: float
    calibration: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store evaluate --prompt detected --json`` prints."""
        return asdict(self)


def resolved(store: Store, config: DetectedConfig) -> tuple[DetectedConfig, RunInfo]:
    """Return the configuration with every choice made, and the detector's run; RunError where a run does not fit."""
    decoder = None if config.checkpoint is None else load_run(store.path, config.checkpoint, "finetune")
    if store_of(store, decoder).key != store.key:
        assert decoder is not None
        raise RunError(f"run {decoder.id} adapted the encoder; to detect with it, set encoder.adapter in store.toml")
    if config.detector == "latest":
        detector = load_run(store.path, "latest", "detector")
    else:
        detector = load_run(store.path, config.detector)
    if detector.kind not in ("detector", "detect"):
        raise RunError(f"run {detector.id} is of kind {detector.kind}, expected detector or detect")
    window = config.window or (decoder and int(decoder.config["window"]))
    window = check_window(window or DEFAULT_WINDOW[store.recipe.encoder.architecture])
    threshold = threshold_of(detector) if config.threshold is None else config.threshold
    checkpoint = None if decoder is None else decoder.id
    config = replace(config, checkpoint=checkpoint, detector=detector.id, window=window, threshold=threshold)
    return config, detector


def segmented_frames(store: Store, config: DetectedConfig, frames: list[str]) -> Iterator[SegmentedFrame]:
    """Segment stored frames: detector, decoder, overlaps resolved. ``config`` is from :func:`resolved`.

    The place for scores of whole label images, such as SEG and DET.
    """
    device = pick_device(config.device)
    info = None if config.checkpoint is None else load_run(store.path, config.checkpoint)
    decoder = decoder_of(store, info, device)
    detector = load_run(store.path, config.detector)
    known = read_detections(detector) if detector.kind == "detect" else None
    head = None if known is not None else load_detector(store, config.detector, config.device)[1]
    assert config.window is not None and config.threshold is not None
    if known is None:
        assert head is not None
        known = {}
        for truth in truths(store, frames):
            tiles = [tile.rect for tile in truth.frame.tiles]
            found = detect_frame(head, tile_embeddings(store, truth.frame), tiles, truth.frame.shape)
            known[truth.frame.frame] = found
    known = {frame: found.above(config.threshold) for frame, found in known.items()}
    near = _neighbours(store) if config.recover else {}
    for truth in truths(store, frames):
        part = truth.frame
        tiles, embeddings = [tile.rect for tile in part.tiles], list(tile_embeddings(store, part))
        how: dict[str, Any] = {"form": config.form, "window": config.window}
        found = known.get(part.frame, no_detections())
        cells = decode_detections(decoder, embeddings.__getitem__, tiles, part.shape, found, **how)
        if near:
            more = proposals(found, with_neighbours(known, near[part.frame]), part.shape)
            answers = decode_detections(decoder, embeddings.__getitem__, tiles, part.shape, more, **how)
            cells += recovered(answers, len(found))
            found = join([found, more])
        label, kept = resolve(cells, part.shape)
        yield SegmentedFrame(truth=truth, found=found, label=label, cells=kept)


def _neighbours(store: Store) -> dict[str, list[str]]:
    columns = (store.frames_table()[name].to_pylist() for name in ("frame", "sequence", "time"))
    return neighbours(list(zip(*columns, strict=True)))


def evaluate_detected(store: Store, config: DetectedConfig, *, progress: Progress = silent) -> DetectedResult:
    """Score label-free segmentation: every labelled cell of a block, missed cells at 0.

    Prompts and predictions are rows of prompt ``"detected"``, one a cell; all masks, false ones too, are the run's
    detections.

    Raises
    ------
    RunError, SplitError, StoreError
        No such run, or one of another encoder; no labelled frame; not embedded yet.
    """
    config, detector = resolved(store, config)
    frames = scorable_frames(store, config.split)
    about = asdict(config) | {"encoder": store.key, "prompts": ["detected"], "seeds": [0]}
    folder = new_run(store.path, "evaluate", about, parent=config.checkpoint, label=f"detected-{config.split}")
    try:
        calibration = find_calibration(store, config)
        scored = _Scored()
        radius = median_training_radius(store)
        shown = progress(segmented_frames(store, config, frames), total=len(frames), what=f"evaluate {config.split}")
        for frame in shown:
            scored.add(frame, config, radius)
        scored.write(folder)
        result = scored.result(folder.id, config, detector.id, calibration)
        folder.log(result=result.to_json())
        folder.publish()
    except BaseException:
        if folder.path.name.endswith(".partial"):
            folder.discard()
        raise
    catalog.index(store.path)
    return result


def calibrate(store: Store, config: DetectedConfig, *, progress: Progress = silent) -> tuple[str, Calibration]:
    """Fit the calibration of a detector and a decoder on the validation block and keep it as a run; return both.

    Raises
    ------
    RunError, SplitError, StoreError
        As :func:`evaluate_detected`, or no cell is found at all.
    """
    config, detector = resolved(store, replace(config, split="val"))
    frames = scorable_frames(store, "val")
    scored = _Scored()
    radius = median_training_radius(store)
    for frame in progress(segmented_frames(store, config, frames), total=len(frames), what="calibrate"):
        scored.add(frame, config, radius)
    found = fit(scored.signs, scored.right)
    about = asdict(config) | {"encoder": store.key, "failure": FAILURE}
    folder = new_run(store.path, CALIBRATION, about, parent=detector.id, label=config.form)
    try:
        found.save(folder.path)
        folder.publish()
    except BaseException:
        if folder.path.name.endswith(".partial"):
            folder.discard()
        raise
    catalog.index(store.path)
    return folder.id, found


def find_calibration(store: Store, config: DetectedConfig) -> Calibration | None:
    """Return the latest calibration of these runs and this form, None where there is none."""
    names = ("checkpoint", "detector", "form")
    for info in reversed(list_runs(store.path, CALIBRATION)):
        if all(info.config.get(name) == getattr(config, name) for name in names):
            return load_calibration(info.path)
    return None


class _Scored:
    """What was found, frame by frame, beside the truth."""

    def __init__(self) -> None:
        self.pairs: list[FramePairs] = []
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
        assert config.threshold is not None
        self.detections += detection_rows(found, truth, config.threshold)
        pairs = match(ious)
        partner = {int(cell): i for i, cell in enumerate(pairs.cell) if cell >= 0}
        half = match(ious, 0.5)
        self.recovered += [bool(half.cell[i] >= 0) for i, cell in enumerate(frame.cells) if cell.recovered]
        for i, cell in enumerate(frame.cells):
            if pairs.cell[i] >= 0 or counted[i]:
                self.signs.append(cell.signs)
                self.ious.append(float(pairs.iou[i]))
                self.right.append(bool(pairs.iou[i] >= FAILURE))
        for j in range(len(truth.frame.cells)):
            self._add_cell(frame, j, partner.get(j), config, radius)

    def _add_cell(self, frame: SegmentedFrame, j: int, i: int | None, config: DetectedConfig, radius: float) -> None:
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
            f1=at.f1,
            f1_70=count(self.pairs, 0.5, 0.7).f1,
            mean_iou=float(ious.mean()) if len(ious) else float("nan"),
            mean_dice=float(np.mean([row["dice"] for row in self.predictions])) if len(ious) else float("nan"),
            mean_iou_found=float(found.mean()) if len(found) else float("nan"),
            calibration=described,
        )
