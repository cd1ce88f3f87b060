"""Masks and events for the tests of the label log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hela_store.images import rle
from hela_store.labels.events import LabelEvent

WHEN = "2026-01-31T12:00:00+00:00"
Event = Callable[..., LabelEvent]


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    """Return a disc as a mask of a frame, bool, (row, col)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def make_event(
    kind: str, frame: str, cells: tuple[int, ...] = (), masks: tuple[np.ndarray, ...] = (), **rest: Any
) -> LabelEvent:
    """Return an event of a person from whole-frame masks, bool, (row, col)."""
    codes = tuple(rle.encode(mask, (0, 0), mask.shape) for mask in masks)
    about: dict[str, Any] = {"who": "ann", "when": WHEN} | rest
    return LabelEvent(kind=kind, frame=frame, cells=cells, masks=codes, **about)  # type: ignore[arg-type]
