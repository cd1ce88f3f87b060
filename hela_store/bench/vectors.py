"""Time the vectors of cells against reading the same embeddings and nothing else, on drawn frames in a folder.

The frames are as large as those of Fluo-N2DL-HeLa, with as many cells, and are cut into as many tiles.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.store.store import Store
from hela_store.store.stored_tables import READERS
from hela_store.vectors.make import cell_vectors
from hela_store.workflows.new import new
from hela_store.workflows.new_config import SYNTHETIC, NewConfig, SyntheticConfig

SHAPE = (700, 1100)
CELLS = 94
TILE = "512"


@dataclass(frozen=True, kw_only=True)
class VectorRow:
    """The vectors of all cells of a store, made anew in each round.

    Attributes
    ----------
    views, cells : int
        How many embeddings were read, and how many vectors were made.
    cells_per_second : float
        Median over the rounds; writing the run is part of it.
    read_views_per_second : float
        Median of reading the same embeddings with as many threads, and nothing else.
    of_read_rate : float
        Share of that rate at which embeddings were read while vectors were made; median of the paired rounds.
    """

    views: int
    cells: int
    cells_per_second: float
    read_views_per_second: float
    of_read_rate: float


def time_vectors(frames: int, rounds: int, device: str) -> VectorRow:
    """Draw and embed frames in a temporary folder, then make vectors and read embeddings in turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn"
        drawn = SyntheticConfig(frames=frames, shape=SHAPE, cells=CELLS)
        new(path, NewConfig.of(dataset=SYNTHETIC, tile=TILE, synthetic=drawn))
        embed(Store.open(path), EmbedConfig(device=device))
        store = Store.open(path)
        rows = [*store.committed().values()]
        _read(store, rows)
        times = [(_made(store), _read(store, rows)) for _ in range(rounds)]
        cells = store.cell_count()
    made, read = (median(part) for part in zip(*times, strict=True))
    return VectorRow(
        views=len(rows),
        cells=cells,
        cells_per_second=cells / made,
        read_views_per_second=len(rows) / read,
        of_read_rate=median(alone / both for both, alone in times),
    )


def _made(store: Store) -> float:
    """Make the vectors, and forget them, so that the next round makes them again."""
    start = time.perf_counter()
    found = cell_vectors(store)
    seconds = time.perf_counter() - start
    for run in found.runs:
        shutil.rmtree(store.path / "runs" / run)
    return seconds


def _read(store: Store, rows: list[int]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(store.embedding_at, rows):
            pass
    return time.perf_counter() - start
