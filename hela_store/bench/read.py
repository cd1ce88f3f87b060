"""Random reads of embeddings into torch tensors: ours against ``np.memmap`` and ``h5py`` of the same data."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hela_store.base.files import fsync_path
from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.errors import StoreError
from hela_store.store.arrays import EMBEDDING_SHAPE, Arrays
from hela_store.store.store import Store

KEY = "bench"
BASE = "h5py"


@dataclass(frozen=True, kw_only=True)
class ReadRow:
    """One way of reading: milliseconds a view (median), MB/s of decoded bytes, and the rate over that of h5py."""

    way: str
    milliseconds: float
    mb_per_second: float
    of_h5py: float


@dataclass(frozen=True, kw_only=True)
class ReadBench:
    """Results of the reading benchmark."""

    views: int
    reads: int
    cold: bool
    rows: tuple[ReadRow, ...]


def bench_read(
    store: Store, *, views: int = 64, reads: int = 256, cold: bool = False, progress: Progress = silent
) -> ReadBench:
    """Copy committed embeddings into every format, then read random ones, the ways in turns.

    Parameters
    ----------
    store : with committed embeddings
    views, reads : how many are copied, and how often each way reads one
    cold : drop a file's pages from the cache before it is read

    Raises
    ------
    StoreError
        Nothing is embedded; the page cache cannot be dropped here.
    """
    if cold and not hasattr(os, "posix_fadvise"):
        raise StoreError("the page cache cannot be dropped on this system; leave --cold out")
    rows = list(store.committed().values())[:views]
    if not rows:
        raise StoreError(f"nothing is embedded in {store.path}; run `hela-store embed`")
    with tempfile.TemporaryDirectory() as folder:
        ways = _ways(Path(folder), np.stack([store.arrays.embedding(store.key, row) for row in rows]))
        _sync(Path(folder))
        times: dict[str, list[float]] = {way: [] for way in ways}
        if not cold:
            for read, _ in ways.values():
                for row in range(len(rows)):
                    read(row)
        order = generator("bench read").integers(0, len(rows), reads)
        for row in progress(order, total=reads, what="bench read"):
            for way, (read, file) in ways.items():
                if cold:
                    _drop(file(int(row)))
                start = time.perf_counter()
                read(int(row))
                times[way].append(time.perf_counter() - start)
    size = store.arrays.embedding_array(store.key).dtype.itemsize * int(np.prod(EMBEDDING_SHAPE)) / 1e6
    taken = {way: float(np.median(values)) for way, values in times.items()}
    found = tuple(
        ReadRow(way=way, milliseconds=t * 1e3, mb_per_second=size / t, of_h5py=taken[BASE] / t)
        for way, t in taken.items()
    )
    return ReadBench(views=len(rows), reads=reads, cold=cold, rows=found)


Way = tuple[Callable[[int], torch.Tensor], Callable[[int], Path]]


def _ways(folder: Path, data: np.ndarray) -> dict[str, Way]:
    import h5py

    ways: dict[str, Way] = {}
    for codec in ("raw", "lz4", "zstd", "bitround:4"):
        arrays = Arrays(folder / codec.replace(":", ""))
        arrays.create_embeddings(KEY, len(data), data.dtype.name, codec)
        for row, one in enumerate(data):
            arrays.write_embedding(KEY, row, one)
        ways[f"ours {codec}"] = (_ours(arrays), lambda row, arrays=arrays: arrays.chunk_path(KEY, row))  # type: ignore[misc]
    data.tofile(folder / "memmap")
    mapped = np.memmap(folder / "memmap", data.dtype, "r", shape=data.shape)
    ways["np.memmap"] = (lambda row: torch.from_numpy(np.array(mapped[row])), lambda row: _unmapped(mapped, folder))
    with h5py.File(folder / "h5", "w") as file:
        file.create_dataset("embedding", data=data, chunks=(1, *EMBEDDING_SHAPE))
    opened = h5py.File(folder / "h5", "r")["embedding"]
    ways[BASE] = (lambda row: torch.from_numpy(opened[row]), lambda row: folder / "h5")
    return ways


def _ours(arrays: Arrays) -> Callable[[int], torch.Tensor]:
    return lambda row: torch.from_numpy(arrays.embedding(KEY, row))


def _unmapped(mapped: np.memmap[Any, Any], folder: Path) -> Path:
    # the kernel keeps pages that are mapped into a process
    mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    return folder / "memmap"


def _sync(folder: Path) -> None:
    """Write everything out: the kernel keeps pages that are not on the disk yet."""
    for path in folder.rglob("*"):
        if path.is_file():
            fsync_path(path)


def _drop(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
