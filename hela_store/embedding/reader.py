"""Read a view for a decoder or an adapting encoder: its stored arrays, or the view itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hela_store.sam.encoder import preprocess
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

from .batches import Frames


def embed_command(store: Store) -> str:
    """Return the command that embeds what a store's recipe asks for."""
    encoder = store.recipe.encoder
    if encoder.source:
        return f"hela-store import {encoder.source}"
    cut = f" --cut {encoder.cut}" if encoder.cut else ""
    return f"hela-store embed{cut}" + (f" --adapter {encoder.adapter}" if encoder.adapter else "")


def readable_views(store: Store) -> dict[str, int]:
    """Return the rows of all views that can be read, by view id: the committed ones.

    Of an encoder that is cut at 0 nothing is stored: all planned views as acquired, and variants whose labels are.
    """
    if store.recipe.encoder.cut != 0:
        return store.committed()
    labelled = {view for key in store.arrays.embedding_keys() for view in store.committed(key)}
    columns = (store.views_table()[name].to_pylist() for name in ("view", "variant", "row"))
    return {view: row for view, variant, row in zip(*columns, strict=True) if not variant or view in labelled}


class ViewReader:
    """Reads views of a store, one after another, by their rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._frames: Frames | None = None
        self._views: dict[int, ViewRecord] = {}

    def __call__(self, row: int) -> Tensor:
        """Return what is stored of a view, float16 or float32: (256, 64, 64), CHW, or (64, 64, C) tokens after a cut.

        Of an encoder that is cut at 0 the preprocessed view itself, float32, (3, 1024, 1024).

        Raises
        ------
        StoreError
            A damaged array, or a frame that changed.
        """
        if self._store.recipe.encoder.cut != 0:
            return torch.from_numpy(self._store.embedding_at(row))
        if self._frames is None:
            self._frames = Frames(self._store)
            self._views = {view.row: view for view in ViewRecord.of(self._store.views_table())}
        pixels = np.ascontiguousarray(self._frames.pixels(self._views[row]))
        return preprocess(torch.from_numpy(pixels)[None])[0]
