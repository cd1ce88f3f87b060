"""Settings of a fit; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hela_store.errors import RecipeError
from hela_store.training.config import FinetuneConfig

PROMPTS = ("box", "point")
"""Prompts for which a decoder is fine-tuned."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Describe how a folder is fitted; whatever is not here has the default of its own command.

    Attributes
    ----------
    data : Path
        Folder of frames with labels for some or all of them.
    store : Path
        Folder of the store; made where it does not exist.
    out : Path
        Folder for the masks and the report.
    encoder : str
        Name of the encoder, as in ``hela-store encoders``.
    steps : int
        Optimiser steps of each fine-tuning at most.
    detector_steps : int
        Optimiser steps of the detector at most.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    cache_dir : Path or None
        Where official checkpoints are fetched to.
    """

    data: Path
    store: Path
    out: Path
    encoder: str = "nano"
    steps: int = FinetuneConfig().optimiser.steps
    detector_steps: int = 800
    device: str = "auto"
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "detector_steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected 1 or more")
