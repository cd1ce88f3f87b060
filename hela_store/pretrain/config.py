"""Settings of pretraining; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hela_store.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Describe how ``nano`` is trained.

    Attributes
    ----------
    steps : optimiser steps; stages follow from the share of steps done, see :func:`crop_sizes`
    lr, weight_decay, warmup : of Muon and AdamW; cosine to a hundredth of ``lr``
    seed : of weights, scenes and batches
    data : folders with ``images/`` and ``masks/``, each ``FOLDER`` or ``FOLDER:WEIGHT``
    init : a weights file of nano to start from, which has seen its small crops; empty for random weights
    decoder_only : the encoder stays as it is in ``init``: a step takes about a third of the time
    drawn : share of the crops that are cut from drawn scenes; all of them where there is no ``data``
    scenes : drawn scenes in the pool
    most : prompts a crop
    ema : decay of the weight average
    precision : of the encoder (torch's autocast) and of Muon's iteration; "float32" for CPUs without bfloat16 products
    """

    steps: int = 7000
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 200
    seed: int = 0
    data: tuple[str, ...] = ()
    init: str = ""
    decoder_only: bool = False
    drawn: float = 0.4
    scenes: int = 800
    most: int = 12
    ema: float = 0.998
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        """Raise RecipeError for settings that contradict each other."""
        if self.decoder_only and not self.init:
            raise RecipeError("--decoder-only without --init: the encoder would stay random; name its weights")
