"""Say what every training keeps in its run's ``config.json``, and when two of them are the same training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hela_store.evaluation.leaks import block_ranges
from hela_store.evaluation.reads import data_read
from hela_store.store.store import Store


def training_config(store: Store, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's configuration: its settings, and what of the store it trains and chooses on."""
    about = {"checkpoint": None, "split": "train"} | dict(settings)
    about |= {"frames": block_ranges(store), **data_read(store, ("train", "val"))}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's configuration that decides its weights, rounding on another device apart."""
    return {name: value for name, value in config.items() if name not in ("workers", "device")}


def same_training(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two configurations give the same weights."""
    return deciding(one) == deciding(other)
