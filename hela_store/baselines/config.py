"""Settings of baselines; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from hela_store.errors import RecipeError
from hela_store.recipe.splits import SPLITS
from hela_store.training.schedule import check_rate


@dataclass(frozen=True, kw_only=True)
class ClassicalConfig:
    """Settings of the classical search and of its scoring.

    Attributes
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    budget : sets of parameters tried on training frames
    finalists : the best of them, compared on validation frames
    search_frames : frames of either block that are looked at, evenly spread
    seed : of the search
    """

    split: str = "test"
    budget: int = 60
    finalists: int = 5
    search_frames: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise RecipeError(f"split is {self.split!r}, expected train, val, test or all")
        if min(self.budget, self.finalists, self.search_frames) < 1:
            raise RecipeError("budget, finalists and search_frames are at least 1")


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """Describe how a U-Net is trained.

    Attributes
    ----------
    steps : optimiser steps, ``batch`` crops of 256 px each
    batch : crops a step
    lr : of AdamW at its peak; then a cosine to a tenth
    seed : of weights and crops
    evaluate_every : steps between validations; 0 for five a training
    workers : loader processes that prepare batches ahead
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    steps: int = 800
    batch: int = 4
    lr: float = 1e-3
    seed: int = 0
    evaluate_every: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        check_rate(self.lr, "1e-3")
        for name, least in (("steps", 1), ("batch", 1), ("evaluate_every", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")
