"""Settings of a segmentation that is scored: detections become prompts for a decoder."""

from __future__ import annotations

from dataclasses import dataclass


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
