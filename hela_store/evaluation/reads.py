"""Give everything that a run reads of a store one digest: runs with different digests are different work."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.files import digest
from hela_store.runs.folder import load_run
from hela_store.store.plan_names import plan_names
from hela_store.store.store import Store


def data_read(store: Store, splits: Collection[str]) -> dict[str, Any]:
    """Return what the configuration of a run says of the data it reads: a digest, and the version of the labels."""
    return {"data": data_digest(store, splits)} | labels_read(store)


def labels_read(store: Store) -> dict[str, Any]:
    """Return what the configuration of a run says of the labels it reads; nothing where they are as ingested."""
    return {"labels_version": store.labels_version} if store.labels_version else {}


def labels_apart(store: Store, run: str) -> str:
    """Say that a run was scored on other labels than its checkpoint was trained on; empty where it was not."""
    scored = load_run(store.path, run)
    trained = None if scored.checkpoint is None else load_run(store.path, scored.checkpoint)
    if trained is None or trained.labels_version == scored.labels_version:
        return ""
    versions = f"version {trained.labels_version} of the labels, and scored on version {scored.labels_version}"
    return f"{trained.id} was trained on {versions}"


def data_digest(store: Store, splits: Collection[str]) -> str:
    """Return 16 hex digits over the frames of these splits, the block of each, and how views are made of them.

    Tiles, normalisation and augmentation count, other frames do not; nothing but the ingest has to be there.
    """
    blocks, frames = store.blocks(), store.frames_table()
    wanted = [frame for frame, block in blocks.items() if block in splits or "all" in splits]
    kept = frames.filter(pc.is_in(frames["frame"], value_set=pa.array(wanted, pa.string())))
    *_, views = plan_names(store.recipe, kept).values()
    return digest("data", views, *(blocks[frame] for frame in kept["frame"].to_pylist()))[:16]
