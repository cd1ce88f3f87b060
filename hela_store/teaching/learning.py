"""Begin fine-tunings when it is time, take in what came of them, and say whether more cells are worth the time."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

from hela_store.errors import HelaError
from hela_store.evaluation.checkpoint import Checkpoint, resolve_checkpoint
from hela_store.store.store import Store

from .background import Background
from .config import TeachConfig
from .curve import forecast
from .decode import Decoding
from .retune import DealtCells, Round, answering, last_round, shares, work


def first_checkpoint(store: Store) -> Checkpoint:
    """Return the decoder that answers first: that of the latest round, else the store's default run."""
    return resolve_checkpoint(store, answering(store))


class Learning:
    """Fine-tunings of one store, one at a time.

    Parameters
    ----------
    store : Store
    config : TeachConfig
    decoding : Decoding
        Gets the decoder of a round that was better.
    """

    def __init__(self, store: Store, config: TeachConfig, decoding: Decoding) -> None:
        self._store, self._config, self._decoding = store, config, decoding
        self._background, self._lock = Background(), Lock()
        self._last = last_round(store)
        self._begun = 0 if self._last is None else self._last.taught
        self._told = "" if self._last is None else str(self._last)

    def close(self) -> None:
        """End a fine-tuning that still runs."""
        self._background.stop()

    def turn(self, dealt: DealtCells, *, asked: bool = False) -> None:
        """Take in a fine-tuning that ended, and begin one where enough cells were taught or somebody asked for it."""
        with self._lock:
            self._take_in()
            due = len(dealt) - self._begun >= self._config.every
            if self._background.running or not (due or asked):
                return
            self._begun = len(dealt)
            parts = shares(self._store.at_labels(), dealt)
            if parts.lack:
                self._told = f"Not fine-tuned: {parts.lack}."
                return
            self._told = f"Fine-tuning on {len(parts.train)} cells; the page stays usable."
            self._background.start(work, self._store.path, self._store.recipe, dealt, self._config, time.time())

    def _take_in(self) -> None:
        found = self._background.result()
        if isinstance(found, HelaError):
            self._told = f"The fine-tuning failed: {found}"
        elif isinstance(found, Round):
            self._last, self._told = found, str(found)
            if found.kept:
                self._decoding.use(resolve_checkpoint(self._store, found.decoder))

    def state(self, dealt: DealtCells) -> dict[str, Any]:
        """Return what the page says of learning, as plain values."""
        curve = [] if self._last is None else self._last.curve
        ahead = [] if self._last is None else self._last.ahead
        base = max((point[0] or 0 for point in curve), default=0)
        names = ("cells", "iou", "low", "high")
        return {
            "taught": len(dealt),
            "held": sum(one.part == "judge" for one in dealt.values()),
            "every": self._config.every,
            "since": max(0, len(dealt) - self._begun),
            "running": self._background.running,
            "told": self._told,
            "forecast": forecast(ahead, 0 if self._last is None else self._last.number),
            "curve": {
                "points": [dict(zip(names, point, strict=True)) for point in curve],
                "ahead": [dict(zip(names, (base + row[0], *row[1:4]), strict=True)) for row in ahead],
            },
        }
