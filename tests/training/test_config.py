"""The settings of a fine-tuning by section and by flat name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hela_store.errors import RecipeError
from hela_store.training.config import NAMES, AdaptConfig, FinetuneConfig, LossConfig, OptimiserConfig

KEPT: dict[str, Any] = {
    "prompt": "box", "steps": 500, "lr": 3e-4, "weight_decay": 0.01, "ema": 0.99, "cells": 16, "seed": 0,
    "window": None, "warmup": 20, "schedule": "cosine", "evaluate_every": 0, "patience": 0, "accumulate": 1,
    "loss": "dice+bce", "loss_weight": 1.0, "loss_ramp": 0.5, "masks": "best", "clicks": 1, "refine": 0.0,
    "init": None, "validation_cells": 300, "workers": None, "variants": None, "adapt": None, "cut": None, "rank": 4,
    "conv": False, "linear": False, "device": "auto",
}  # fmt: skip
"""What runs of version 0.1 have in their ``config.json``, in that order."""


def test_runs_keep_the_settings_by_the_names_of_before() -> None:
    assert json.dumps(FinetuneConfig().flat()) == json.dumps(KEPT)


@pytest.mark.parametrize(
    "changed",
    [{"lr": 1e-5, "loss": "boundary", "loss_weight": 2.0}, {"adapt": "encoder", "cut": 2, "rank": 8, "conv": True}],
)
def test_flat_names_there_and_back(changed: dict[str, Any]) -> None:
    config = FinetuneConfig.of(**changed)
    assert config.flat() == KEPT | changed
    assert FinetuneConfig.of(**config.flat()) == config == FinetuneConfig().with_choices(**changed)


def test_sections_and_flat_names_say_the_same() -> None:
    adapt, optimiser = AdaptConfig(part="decoder", rank=2), OptimiserConfig(steps=9)
    nested = FinetuneConfig(optimiser=optimiser, loss=LossConfig(weight=3.0), adapt=adapt)
    assert nested == FinetuneConfig.of(steps=9, loss_weight=3.0, adapt="decoder", rank=2)
    later = {"blind", "errors_like", "train_cells", "held_cells", "pick"}
    assert set(nested.flat()) == set(NAMES) - later  # only where they are set, so that older runs are equal


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'warm_up' is unknown.*did you mean warmup"):
        FinetuneConfig.of(warm_up=3)
    with pytest.raises(RecipeError, match="loss_weight is -1"):
        LossConfig(weight=-1)
