"""Settings of detectors; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hela_store.errors import RecipeError
from hela_store.training.schedule import check_rate

STARTS = ("random", "generic")
IMPORTED = 0.5
"""Score from which a box of another tool counts, where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Describe how a detector is trained.

    Attributes
    ----------
    backend : ``"grid"``
    steps : optimiser steps at most, ``batch`` views each
    batch : views a step
    lr : of AdamW at its peak; then a cosine to a tenth
    weight_decay : of AdamW
    start : ``"random"`` weights, or ``"generic"``: those of the detector that ships with nano
    width : channels of the network, a multiple of 8; a wider one is slower and can learn more from many cells. None
        for those of the weights it starts with, or 64
    seed : of weights and order
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    patience : validations without a better one after which training ends; 0 for never
    evaluate_every : steps between validations; 0 for an epoch or 20 steps, whichever is more, but at least four times a
        run
    workers : loader processes that prepare batches ahead
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    backend: str = "grid"
    steps: int = 800
    batch: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.01
    start: str = "random"
    width: int | None = None
    seed: int = 0
    variants: int | None = None
    patience: int = 4
    evaluate_every: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.backend != "grid":
            raise RecipeError(f"backend is {self.backend!r}, expected grid; `detect import` takes boxes of others")
        check_rate(self.lr, "2e-3")
        for name, least in (
            ("steps", 1),
            ("batch", 1),
            ("evaluate_every", 0),
            ("workers", 0),
            ("variants", 0),
            ("patience", 0),
        ):
            if (getattr(self, name) or 0) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.start not in STARTS:
            raise RecipeError(f"start is {self.start!r}, expected {' or '.join(STARTS)}")
        if self.width is not None and (self.width < 8 or self.width % 8):
            raise RecipeError(f"width is {self.width}, expected a multiple of 8, such as 64")

    def settings(self) -> dict[str, Any]:
        """Return what a run's configuration says; what trainings could not choose before is left out as it was then."""
        before = {name: getattr(type(self), name) for name in ("start", "width", "patience")}
        return {name: value for name, value in asdict(self).items() if name not in before or value != before[name]}


@dataclass(frozen=True, kw_only=True)
class YoloConfig:
    """Describe how a YOLO11s is trained; what is not here is ultralytics' default.

    Attributes
    ----------
    steps : batches, rounded up to whole epochs
    batch : views a step
    seed : of weights and order
    image_size : long side that views are brought to, px
    weights : safetensors with the names of YOLO11s to begin with; None for random ones
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    steps: int = 800
    batch: int = 8
    seed: int = 0
    image_size: int = 640
    weights: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("image_size", 64)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.image_size % 32:
            raise RecipeError(f"image_size is {self.image_size}, expected a multiple of 32, such as 640")
