"""Settings of a fine-tuning, and what they rule out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hela_store.errors import RecipeError
from hela_store.prompts.training import check_training_prompt
from hela_store.sam.adapters import Adapter
from hela_store.sam.predict import check_window
from hela_store.training.losses.decoder import REGION, check_loss

LEAST = {
    "steps": 1,
    "cells": 1,
    "warmup": 0,
    "evaluate_every": 0,
    "patience": 0,
    "accumulate": 1,
    "clicks": 1,
    "validation_cells": 1,
    "workers": 0,
    "rank": 1,
}


ENCODER = ("encoder", "encoder-full")


ADAPT = ("decoder", *ENCODER)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a decoder is tuned.

    Attributes
    ----------
    prompt : ``"box"``, ``"point"``, ``"mask"``, ``"box+mask"``, ``"point+mask"``; or ``"all"``, one decoder for all
    steps : optimiser steps
    lr : of AdamW at its peak, after ``warmup`` steps
    schedule : ``"cosine"`` or ``"linear"``, down to a tenth, or ``"constant"``
    weight_decay : of AdamW
    ema : decay of a running average of the weights, such as 0.99; that is what is validated and kept. 0 for none
    cells : most cells of the view that learn at once
    seed : of batches and prompts
    window : positions along each side a prompt reads; None for the encoder's default
    warmup : steps
    evaluate_every : steps between validation scores; 0 for one epoch, but at least three times a run
    patience : stop after so many validations without a better one; 0 for never
    accumulate : views a step
    loss : one of :data:`hela_store.training.losses.decoder.LOSSES`
    loss_weight : of what the loss has beyond Dice + cross-entropy
    masks : of the three masks of a lone point ``"best"`` lets the best learn, so that they stay different readings, and
        ``"all"`` each: of one kind of cell there is one reading, and whichever predicted IoU takes has learned it
    loss_ramp : share of the steps over which that weight grows from 0
    clicks : passes with point prompts: the first click, then one each in the region of the error, logits fed back
    refine : share of the steps with a second pass for any kind of prompt
    init : a fine-tuning run (id, its beginning or ``"latest"``) whose weights are the beginning; None for zero-shot
    validation_cells : at most so many cells, spread over the validation block
    workers : loader processes that prepare batches ahead; None for :func:`hela_store.training.data.loader_workers`
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    adapt : None tunes the mask decoder; ``"decoder"`` low-rank adapters in it; ``"encoder"`` adapters in the image
        encoder's blocks after ``cut`` and the mask decoder; ``"encoder-full"`` these blocks themselves
    cut : blocks whose stored tokens are read (``embed --cut``); 0 runs the whole encoder at every step
    rank : of the adapters
    conv : Conv-LoRA adapters
    linear : adapters beside all linear layers of a block, not only the projections to q and v
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    prompt: str = "box"
    steps: int = 500
    lr: float = 3e-4
    weight_decay: float = 0.01
    ema: float = 0.99
    cells: int = 16
    seed: int = 0
    window: int | None = None
    warmup: int = 20
    schedule: str = "cosine"
    evaluate_every: int = 0
    patience: int = 0
    accumulate: int = 1
    loss: str = REGION
    loss_weight: float = 1.0
    loss_ramp: float = 0.5
    masks: str = "best"
    clicks: int = 1
    refine: float = 0.0
    init: str | None = None
    validation_cells: int = 300
    workers: int | None = None
    variants: int | None = None
    adapt: str | None = None
    cut: int | None = None
    rank: int = 4
    conv: bool = False
    linear: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_training_prompt(self.prompt)
        check_loss(self.loss)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}, expected a positive number such as 1e-4")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}, expected {least} or more")
        for name in ("loss_ramp", "refine"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected a share, 0 to 1")
        if not 0 <= self.ema < 1:
            raise RecipeError(f"ema is {self.ema}, expected a decay such as 0.99, or 0 for none")
        if not (math.isfinite(self.loss_weight) and self.loss_weight >= 0):
            raise RecipeError(f"loss_weight is {self.loss_weight}, expected 0 or more")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")
        if self.masks not in MASKS:
            raise RecipeError(f"masks is {self.masks!r}, expected one of {', '.join(MASKS)}")
        if self.clicks > 1 and "point" not in self.prompt and self.prompt != "all":
            raise RecipeError(f"clicks is {self.clicks}, but prompt {self.prompt!r} has no points to add clicks to")
        if self.masks != "best" and self.prompt not in ("point", "all"):
            raise RecipeError(f"masks is {self.masks!r}, but only a lone point has several; prompt is {self.prompt!r}")
        if self.window is not None:
            check_window(self.window)
        if self.variants is not None and self.variants < 0:
            raise RecipeError(f"variants is {self.variants}, expected 0 or more")
        self._check_adapt()

    def _check_adapt(self) -> None:
        if self.adapt is not None and self.adapt not in ADAPT:
            raise RecipeError(f"adapt is {self.adapt!r}, expected one of {', '.join(ADAPT)}")
        encoder = self.adapt in ENCODER
        if encoder and self.cut is None:
            raise RecipeError(
                "adapting the encoder needs cut: how many of its blocks stay as they are; `hela-store embed --cut K` "
                "stores their tokens, 0 stores nothing"
            )
        if encoder and self.init is not None:
            raise RecipeError("init begins with a tuned decoder, an adapting encoder with its own; leave it out")
        for name in ("conv", "linear"):
            if getattr(self, name) and self.adapt != "encoder":
                raise RecipeError(f"{name} says how the encoder is adapted; it needs adapt = 'encoder'")
        if self.cut is not None and not encoder:
            raise RecipeError("cut says from which block on the encoder is adapted; it needs adapt = 'encoder'")
        if self.rank != FinetuneConfig.rank and self.adapt not in ("decoder", "encoder"):
            raise RecipeError("rank is that of low-rank adapters; it needs adapt = 'decoder' or 'encoder'")


def paper_preset(config: FinetuneConfig) -> FinetuneConfig:
    """Return the study's way: Adam at lr 1e-5, one view and one random cell a step, SAM's own full window."""
    return replace(config, lr=1e-5, weight_decay=0.0, ema=0.0, cells=1, warmup=0, schedule="constant", window=64)


SCHEDULES = ("cosine", "linear", "constant")


MASKS = ("best", "all")


def adapter_of(config: FinetuneConfig) -> Adapter | None:
    """Return what a configuration adapts, None for the mask decoder itself."""
    if config.adapt is None:
        return None
    if config.adapt == "decoder":
        return Adapter(part="decoder", rank=config.rank)
    assert config.cut is not None
    how = {"conv": config.conv, "linear": config.linear, "full": config.adapt == "encoder-full"}
    return Adapter(part="encoder", rank=config.rank, cut=config.cut, **how)
