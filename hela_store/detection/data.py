"""Say what the ``grid`` head learns from: stored embeddings with the maps of their cells, shuffled without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hela_store.base.rng import generator
from hela_store.store.labelled import opener
from hela_store.store.records import CellBox, by_frame
from hela_store.store.store import Store
from hela_store.training.data import training_views
from hela_store.training.loading import load

from .losses import stack_targets
from .targets import HEAD_POSITIONS, Point, Targets, position_px, view_targets

Batch = tuple[Tensor, dict[str, Tensor], list[np.ndarray]]
"""Embeddings, maps of the targets, and boxes of whole cells by view."""


class DetectionViews(Dataset[tuple[Tensor, Targets]]):
    """An endless, shuffled series of the training views and so many variants of each, with their targets.

    View ``i`` is a pure function of (seed, i), whatever the number of workers.
    """

    def __init__(self, store: Store, *, seed: int, variants: int = 0) -> None:
        self.open, self.key, self.seed = opener(store), store.key, seed
        self.encoder = store.recipe.encoder.sha256
        self.views = training_views(store, variants=variants)
        self.start_method = store.arrays.start_method
        self.cells = by_frame(CellBox, store.cells_table(), store.frame_records())
        self._clicks: dict[CellBox, Point] = {}
        self._store: Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}

    def __getitem__(self, index: int) -> tuple[Tensor, Targets]:
        """Return the embedding, float32 (256, 64, 64), and the targets of view ``index`` of the series."""
        epoch, place = divmod(index, len(self.views))
        order = generator("detector", self.seed, epoch).permutation(len(self.views))
        view = self.views[order[place]]
        if self._store is None:
            self._store = self.open()
        embedding = torch.from_numpy(self._store.embedding_at(view.row, self.key)).float()
        label, valid = view.truth(self._store)
        if view.variant:
            return embedding, view_targets(label, valid, view.cells, view.rect)
        return embedding, view_targets(label, valid, self.cells[view.frame], view.rect, self._clicks)

    def batches(self, steps: range, size: int, workers: int) -> Iterator[Batch]:
        """Return a :data:`Batch` of ``size`` views for every step, prepared ahead by so many loader processes."""
        order = range(steps.start * size, steps.stop * size)
        return load(self, workers, self.start_method, order=order, size=size, collate=_collate)

    def typical_side(self) -> float:
        """Return the median side of the training cells' boxes, positions of the head's grid."""
        seen = [(cell, position_px(view.rect)) for view in self.views[:50] for cell in view.cells]
        sides = [max(cell.x1 - cell.x0, cell.y1 - cell.y0) / pitch for cell, pitch in seen]
        return float(np.clip(np.median(sides), 1.0, HEAD_POSITIONS))


def _collate(parts: list[tuple[Tensor, Targets]]) -> Batch:
    targets = [target for _, target in parts]
    return torch.stack([e for e, _ in parts]), stack_targets(targets), [target.boxes for target in targets]
