"""Sizes of a store's arrays, measured on a sample of their chunks: no folder and no bucket is ever listed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .arrays import COORDINATE_CHUNK, COORDINATES, frame_chunk, view_chunk
from .storage import Storage

if TYPE_CHECKING:
    from .arrays import Arrays
    from .store import Store

SAMPLE = 64
"""Chunks of each array that are measured; the size of an array with no more chunks is exact."""
THREADS = 8
FRAME_PARTS = ("image", "label", "valid")
TRUTH_PARTS = ("label", "valid")


def array_bytes(store: Store) -> int:
    """Return about how many bytes all arrays of a store take, in its folder or in its bucket.

    What is there follows from the tables and the ledgers. The mean size of a chunk is that of a sample.

    Raises
    ------
    StoreError
        A table or a ledger is damaged; the bucket does not answer.
    """
    arrays = store.arrays
    total = sum(embedding_bytes(arrays, key, store.ledger(key).table()) for key in arrays.embedding_keys())
    if not any((store.path / "ingest").glob("frames-*.parquet")):
        return total
    frames = store.frames_as_ingested()
    groups, rows = frames["group"], frames["row"].to_numpy()

    def chunk(part: str, i: int) -> str:
        return frame_chunk(groups[i].as_py(), part, int(rows[i]))

    parts = sum(_sampled(arrays.storage, len(rows), partial(chunk, part)) for part in FRAME_PARTS)
    return total + parts + _truth_bytes(store)


def embedding_bytes(arrays: Arrays, key: str, ledger: pa.Table) -> int:
    """Return about how many bytes the committed embeddings of a key and their coordinates take.

    Parameters
    ----------
    ledger : pyarrow.Table
        Of that key; has a column ``row``.
    """
    rows = np.unique(ledger["row"].to_numpy() // (arrays.views_per_shard(key) or 1))
    rows *= arrays.views_per_shard(key) or 1  # the first one of each object
    chunks = -(-(int(rows.max(initial=-1)) + 1) // COORDINATE_CHUNK)

    def chunk(i: int) -> str:
        return arrays.chunk_name(key, int(rows[i]))

    def coordinate(name: str, i: int) -> str:
        return f"embeddings/{key}/{name}/c.{i}"

    coordinates = sum(_sampled(arrays.storage, chunks, partial(coordinate, name)) for name in COORDINATES)
    return _sampled(arrays.storage, len(rows), chunk) + coordinates


def _truth_bytes(store: Store) -> int:
    """Return about how many bytes the labels of variants take that are in the current plan."""
    if not store.plan_path().exists():
        return 0
    stored = store.truths.ledger.table()["view"]
    views = store.views_table()
    views = views.filter(pc.is_in(views["view"], pc.unique(stored))) if len(stored) else views.slice(0, 0)
    sides: list[npt.NDArray[np.int64]] = [views[name].to_numpy() for name in ("height", "width", "row")]

    def chunk(part: str, i: int) -> str:
        height, width, row = (int(column[i]) for column in sides)
        return view_chunk((height, width), part, row)

    return sum(_sampled(store.arrays.storage, len(views), partial(chunk, part)) for part in TRUTH_PARTS)


def _sampled(storage: Storage, count: int, name: Callable[[int], str]) -> int:
    """Return the size of ``count`` chunks, by the mean of some that are evenly spread; one that is lost has none."""
    if not count:
        return 0
    picked = np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(int)).tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = [size or 0 for size in pool.map(storage.size, map(name, picked))]
    return round(sum(sizes) * count / len(picked))
