"""Settings of segmentations; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORMS = ("box", "point", "mask")
"""What of a detection the decoder can be given."""


@dataclass(frozen=True, kw_only=True)
class DetectedConfig:
    """Settings of a segmentation from detections.

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
class SegmentConfig:
    """Describe how frames are segmented.

    Attributes
    ----------
    out : folder for the results
    prompts : which detector, decoder, form of prompt, threshold, window and device, and whether cells that only the
        frames before and after show are asked for; its split says nothing here
    axis : letter of the axis of a stack whose positions are frames
    channel : which channel, where there are several
    overlay : whether a PNG with the outlines is written beside each label image
    cache_dir : where official checkpoints are fetched to
    """

    out: Path
    prompts: DetectedConfig = DetectedConfig()
    axis: str = "t"
    channel: int | None = None
    overlay: bool = True
    cache_dir: Path | None = None
