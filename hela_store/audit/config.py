"""Settings of audits; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from hela_store.errors import RecipeError

FAULTS = {
    "missing": "a cell without a label",
    "merged": "two cells under one label",
    "split": "a part of a cell",
    "shifted": "a label beside its cell",
    "ragged": "a ragged outline",
    "crescent": "a crescent, the rest of the cell is left out",
    "identity": "the number of another cell in time",
    "debris": "no cell at all",
}
"""Kinds of faults, and what a label with each of them is."""
BASE_RATE = 0.02
"""Share of faulty labels that scores are made for: a label with score 0.5 is as likely faulty as right at this rate."""
FLAGGED = (0.01, 0.05)
"""Shares of flagged labels at which the recall of injected faults is told."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Settings of an audit.

    Attributes
    ----------
    folds : into how many blocks of time the frames are cut; each is judged by what the others taught
    steps : optimiser steps of each block's decoder
    cells : maximum number of cells per step
    faults : share of the labels that get an injected fault, on copies, to calibrate the scores with
    seed : of the decoders and the injected faults
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    folds: int = 4
    steps: int = 150
    cells: int = 16
    faults: float = 0.25
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("steps", 1), ("cells", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if not 0 < self.faults <= 1:
            raise RecipeError(f"faults is {self.faults}, expected a share above 0, up to 1")
