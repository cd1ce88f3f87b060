"""``evaluate --prompt detected``: segmentation without ground truth, scored against it.

The detector's threshold, the decoder and the calibration are all chosen before; a cell that is missed has IoU 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.catalog import index as catalog
from hela_store.detection.detect import load_detector, threshold_of
from hela_store.detection.detections import no_detections
from hela_store.detection.frames import scorable_frames, tile_embeddings, truths
from hela_store.detection.propose import detect_frame
from hela_store.detection.rows import read_detections
from hela_store.embedding.encoders import store_of
from hela_store.errors import RunError
from hela_store.evaluation.decoders import decoder_of
from hela_store.evaluation.frames import median_training_radius
from hela_store.evaluation.leaks import check_untouched
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.evaluation.subsets import subset_scores
from hela_store.runs.folder import RunInfo, list_runs, load_run, new_run
from hela_store.sam.encoder import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW, check_window
from hela_store.store.store import Store

from .assemble import decode_detections, resolve
from .calibration import FAILURE, Calibration, fit, load_calibration
from .config import DetectedConfig
from .recover import detections_of, neighbours, with_recovered
from .scores import DetectedResult, Scored, SegmentedFrame

__all__ = ["DetectedConfig", "DetectedResult", "calibrate", "evaluate_detected", "find_calibration", "resolved"]

CALIBRATION = "calibration"
"""Kind of the runs that hold one."""


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
    if detector.kind == "detect" and detector.parent is not None and detector.split not in (config.split, "all"):
        raise RunError(f"run {detector.id} looked at split {detector.split}, not at {config.split}; detect there first")
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
        decode = partial(decode_detections, decoder, embeddings.__getitem__, tiles, part.shape, **how)
        others = detections_of(known, near.get(part.frame, []))
        cells, found = with_recovered(decode, known.get(part.frame, no_detections()), others, part.shape)
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
        No such run, one of another encoder, one that trained on these frames; no labelled frame; not embedded.
    """
    config, detector = resolved(store, config)
    frames = scorable_frames(store, config.split)
    _check_untouched(store, config, detector, frames)
    about = asdict(config) | {"encoder": store.key, "prompts": ["detected"], "seeds": [0]}
    folder = new_run(store.path, "evaluate", about, parent=config.checkpoint, label=f"detected-{config.split}")
    with folder.tidied():
        calibration = find_calibration(store, config)
        scored = Scored()
        radius = median_training_radius(store)
        shown = progress(segmented_frames(store, config, frames), total=len(frames), what=f"evaluate {config.split}")
        for frame in shown:
            scored.add(frame, config, radius)
        scored.write(folder)
        result = scored.result(folder.id, config, detector.id, calibration)
        folder.log(result=result.to_json())
        folder.publish()
    catalog.index(store.path)
    sequences = sequence_scores(run_labels(store, folder.id), progress)
    return replace(result, sequences=sequences, subsets=subset_scores(store, folder.id).get("detected", {}))


def _check_untouched(store: Store, config: DetectedConfig, detector: RunInfo, frames: list[str]) -> None:
    """Refuse a decoder or a detector that learned from these frames."""
    trained = load_run(store.path, detector.parent) if detector.kind == "detect" and detector.parent else detector
    for run in (None if config.checkpoint is None else load_run(store.path, config.checkpoint), trained):
        check_untouched(store, None if run is None or run.kind == "detect" else run, frames, config.split)


def calibrate(store: Store, config: DetectedConfig, *, progress: Progress = silent) -> tuple[str, Calibration]:
    """Fit the calibration of a detector and a decoder on the validation block and keep it as a run; return both.

    Raises
    ------
    RunError, SplitError, StoreError
        As :func:`evaluate_detected`, or no cell is found at all.
    """
    config, detector = resolved(store, replace(config, split="val"))
    frames = scorable_frames(store, "val")
    _check_untouched(store, config, detector, frames)
    scored = Scored()
    radius = median_training_radius(store)
    for frame in progress(segmented_frames(store, config, frames), total=len(frames), what="calibrate"):
        scored.add(frame, config, radius)
    found = fit(scored.signs, scored.right)
    about = asdict(config) | {"encoder": store.key, "failure": FAILURE}
    folder = new_run(store.path, CALIBRATION, about, parent=detector.id, label=config.form)
    with folder.tidied():
        found.save(folder.path)
        folder.publish()
    catalog.index(store.path)
    return folder.id, found


def find_calibration(store: Store, config: DetectedConfig) -> Calibration | None:
    """Return the latest calibration of these runs and this form, None where there is none."""
    names = ("checkpoint", "detector", "form")
    for info in reversed(list_runs(store.path, CALIBRATION)):
        if all(info.config.get(name) == getattr(config, name) for name in names):
            return load_calibration(info.path)
    return None
