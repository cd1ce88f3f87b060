"""Say which detector and decoder segment: the runs that settings name, loaded once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hela_store.detection.detect import threshold_of
from hela_store.errors import RunError
from hela_store.evaluation.checkpoint import Checkpoint, resolve_checkpoint
from hela_store.runs.folder import RunInfo, has_run, load_run
from hela_store.sam.predict import check_window
from hela_store.store.store import Store

from .config import DetectedConfig


@dataclass(frozen=True, kw_only=True)
class DetectedPrompts:
    """Settings with every choice made, and the runs that they name.

    Attributes
    ----------
    config : the settings, with whole ids, a threshold and a window
    checkpoint : the decoder that answers
    detector : run of kind ``"detector"``, or of kind ``"detect"``
    trained : the training run of the detector; None for imported detections
    threshold : score from which a detection counts
    window : positions along each side that a prompt reads at least
    """

    config: DetectedConfig
    checkpoint: Checkpoint
    detector: RunInfo
    trained: RunInfo | None
    threshold: float
    window: int


def resolve_prompts(store: Store, config: DetectedConfig) -> DetectedPrompts:
    """Make every choice that the settings leave open; RunError where a run does not fit."""
    checkpoint = resolve_checkpoint(store, config.checkpoint)
    if checkpoint.key != store.key:
        raise RunError(
            f"run {checkpoint.name} adapted the encoder; to detect with it, set encoder.adapter in store.toml"
        )
    if config.detector == "latest" and not has_run(store.path, "detector"):
        raise RunError(
            f"there is no trained detector in {store.path} yet; `hela-store detect train` makes one. To segment "
            "without training: `hela-store segment FRAMES --generic`"
        )
    detector = load_run(store.path, config.detector, "detector" if config.detector == "latest" else None)
    if detector.kind not in ("detector", "detect"):
        raise RunError(f"run {detector.id} is of kind {detector.kind}, expected detector or detect")
    trained: RunInfo | None = detector
    if detector.kind == "detect":
        if detector.parent is not None and detector.split not in (config.split, "all"):
            raise RunError(
                f"run {detector.id} looked at split {detector.split}, not at {config.split}; detect there first"
            )
        trained = None if detector.parent is None else load_run(store.path, detector.parent)
    window = check_window(config.window or checkpoint.window)
    threshold = threshold_of(detector) if config.threshold is None else config.threshold
    chosen = replace(config, checkpoint=checkpoint.id, detector=detector.id, window=window, threshold=threshold)
    return DetectedPrompts(
        config=chosen, checkpoint=checkpoint, detector=detector, trained=trained, threshold=threshold, window=window
    )
