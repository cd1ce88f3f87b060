"""The frames of a store as the page lists them: what is embedded, which block each is in, how many cells it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hela_store.evaluation.frames import frame_tiles
from hela_store.store.store import Store


class Overview:
    """Lists the frames again only where something changed.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._counted: tuple[int, Mapping[str, int]] = (-1, {})

    def frames(self) -> list[dict[str, Any]]:
        """Return all frames in the order of time, with their size and block and whether they are embedded."""
        committed = len(self._store.committed())
        if self._listed[0] != committed:
            blocks = self._store.blocks()
            self._listed = (
                committed,
                [about | {"block": blocks[about["frame"]]} for about in frame_list(self._store)],
            )
        return self._listed[1]

    def training(self) -> list[str]:
        """Return the embedded frames of the training block: what is labelled elsewhere never trains."""
        return [about["frame"] for about in self.frames() if about["embedded"] and about["block"] == "train"]

    def is_embedded(self, frame: str) -> bool:
        """Return whether all tiles of a frame are embedded."""
        return any(about["frame"] == frame and about["embedded"] for about in self.frames())

    def listed(self, version: int, taught: Mapping[str, set[int]]) -> list[dict[str, Any]]:
        """Return the frames with how many cells they have at a version of the labels, and how many were taught."""
        if self._counted[0] != version:
            self._counted = (version, Counter(self._store.at_labels(version).cells_table()["frame"].to_pylist()))
        counts = self._counted[1]
        return [
            about | {"cells": counts.get(about["frame"], 0), "taught": len(taught.get(about["frame"], ()))}
            for about in self.frames()
        ]


def frame_list(store: Store) -> list[dict[str, Any]]:
    """Return all ingested frames, each sequence in the order of time, with whether all of their tiles are embedded.

    Raises
    ------
    StoreError
        Nothing was ingested yet.
    """
    records = store.frame_records()
    embedded = frame_tiles(store, list(records))
    names = ("frame", "sequence", "time", "width", "height")
    return [
        {name: getattr(record, name) for name in names} | {"embedded": frame in embedded}
        for frame, record in records.items()
    ]
