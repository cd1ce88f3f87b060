"""Measure a store with very many views; tables, ledger and metadata are real, and only a few embeddings exist.

Each measurement runs in a process of its own; its seconds and its memory are those beyond the imports.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from hela_store.base.files import digest, write_atomic
from hela_store.base.locks import embed_lock
from hela_store.base.parquet import write_parquet
from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.base.sums import array_sum
from hela_store.embedding.batches import done_of, unique_views, work_of
from hela_store.embedding.embed import clear_leftovers, plan_all
from hela_store.embedding.ingest import SEGMENT_FRAMES
from hela_store.embedding.pipeline import make_room
from hela_store.embedding.plan import damped_share, make_plan, plan_metadata, view_id
from hela_store.images.geometry import tile_rectangles
from hela_store.recipe.recipe import DatasetRecipe, EncoderRecipe, Recipe, ViewsRecipe
from hela_store.recipe.toml import recipe_text
from hela_store.store.ledger import DIGITS, MERGED, Entry, segment_text
from hela_store.store.new_store import new_store
from hela_store.store.store import Store
from hela_store.store.tables import CELLS_SCHEMA, FRAMES_SCHEMA, PLAN_SCHEMA
from hela_store.workflows.info import info

from .rows import RowsBench, bench_rows

SIDE, TILE, OVERLAP = 960, 512, 64
BLANK = np.zeros((SIDE, SIDE), np.uint16)
SEQUENCE, CELLS = 1000, 4
"""Frames a sequence, labelled cells a frame."""
THERE = 8
"""Embeddings that are really there."""
APPENDED = 1000
"""Views that are added to each store."""


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """One number of views: seconds of each step, most MiB any of them took, and files of the whole store.

    ``append`` is what 1,000 new views cost an ``embed`` beside reading the data set, encoding and chunks.
    """

    views: int
    open: float
    plan: float
    info: float
    read: float
    append: float
    mebibytes: float
    files: int


@dataclass(frozen=True, kw_only=True)
class ScaleBench:
    """Results of the scale benchmark; ``metrics`` is None where no rows were asked for."""

    rows: tuple[ScaleRow, ...]
    metrics: RowsBench | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def bench_scale(
    *,
    views: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000),
    metric_rows: int = 10_000_000,
    progress: Progress = silent,
) -> ScaleBench:
    """Simulate stores of these many views and time what does not depend on how many are new.

    Parameters
    ----------
    views : sizes of the stores, one after the other
    metric_rows : rows of predictions to insert and query, beside pandas and SQLite; 0 for none
    """
    rows = []
    for count in progress(views, total=len(views), what="bench scale"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            simulate(path, count)
            taken = {step: _alone(step, path) for step in STEPS}
            files = sum(len(names) for _, _, names in os.walk(path))
            seconds = {step: found[0] for step, found in taken.items()}
            most = max(found[1] for found in taken.values())
            rows.append(ScaleRow(views=count, **seconds, mebibytes=most, files=files))
    return ScaleBench(rows=tuple(rows), metrics=bench_rows(metric_rows, simulate, progress) if metric_rows else None)


# ---- what is measured


def _open(path: Path) -> None:
    Store.open(path).views_table()


def _plan(path: Path) -> None:
    store = Store.open(path)
    views = unique_views(make_plan(store))
    assert work_of(views, done_of(store, views), 1, None).size == 0


def _info(path: Path) -> None:
    info(Store.open(path))


def _read(path: Path) -> None:
    store = Store.open(path)
    place = store.views_table().slice(_there(len(store.views_table()))[0], 1).to_pylist()[0]
    assert np.isfinite(store.embedding(place["frame"], place["tile"])).all()


def _append(path: Path) -> None:
    store = Store.open(path)
    with embed_lock(path):
        clear_leftovers(path)
        _write_frames(path, len(store.frames_table()), APPENDED // len(_tiles()))
        plan = plan_all(store, silent)
        views = unique_views(plan)
        new = work_of(views, done_of(store, views), 1, None)
        damped_share(plan)
        for _, todo in new:
            store.commit(Entry(view=view.view, row=view.row, sha256=view.view) for view in todo)


STEPS: dict[str, Callable[[Path], None]] = {
    "open": _open,
    "plan": _plan,
    "info": _info,
    "read": _read,
    "append": _append,
}


def _alone(step: str, path: Path) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, step, path).result()


def _measure(step: str, path: Path) -> tuple[float, float]:
    """Return seconds, and MiB of memory at most beyond what the imports take."""
    import dask.array  # noqa: F401
    import torch  # noqa: F401

    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    STEPS[step](path)
    seconds = time.perf_counter() - start
    return seconds, max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before / 2**20)


# ---- the store


def simulate(path: Path, views: int) -> Store:
    """Make a store of drawn tables with so many views, all of them committed; few embeddings are there."""
    frames = -(-views // len(_tiles()))
    recipe = Recipe(
        name="scale",
        dataset=DatasetRecipe(path="data"),
        encoder=EncoderRecipe(sha256="0" * 64),
        views=ViewsRecipe(tile=TILE, overlap=OVERLAP),
    )
    store = new_store(path, recipe_text(recipe))
    _write_frames(path, 0, frames)
    table = _plan_table(store.frames_table()).slice(0, views)
    write_parquet(store.plan_path(), table.replace_schema_metadata(plan_metadata(recipe)))
    make_room(store)
    _write_ledger(store, table)
    rng = generator("bench scale")
    entries = []
    for row in _there(views):
        drawn = rng.normal(size=(256, 64, 64)).astype(np.float32)
        stored = store.arrays.write_embedding(store.key, row, drawn)
        entries.append(Entry.of(table["view"][row].as_py(), row, stored))
    store.commit(entries)
    # the pixels of the frames that :func:`_append` adds; planning reads them
    for frame in map(_frame, range(frames, frames + APPENDED // len(_tiles()))):
        store.arrays.add_frame_group(frame["group"], SEQUENCE, (SIDE, SIDE), "uint16")
        store.arrays.write_frame(frame["group"], frame["row"], BLANK, None, BLANK == 0)
    return store


def _tiles() -> list[tuple[int, int, int, int]]:
    return tile_rectangles((SIDE, SIDE), TILE, OVERLAP)


def _there(views: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, views - 1, THERE)})


def _write_frames(path: Path, first: int, count: int) -> None:
    store = Store.open(path)
    for number in range(first, first + count, SEGMENT_FRAMES):
        rows = [_frame(i) for i in range(number, min(number + SEGMENT_FRAMES, first + count))]
        for group in dict.fromkeys(row["group"] for row in rows):
            store.arrays.add_frame_group(group, SEQUENCE, (SIDE, SIDE), "uint16")
        segment = len(list((path / "ingest").glob("frames-*.parquet"))) + 1
        cells = [_cell(row["frame"], label) for row in rows for label in range(1, CELLS + 1)]
        write_parquet(path / "ingest" / f"cells-{segment:04}.parquet", pa.Table.from_pylist(cells, CELLS_SCHEMA))
        write_parquet(path / "ingest" / f"frames-{segment:04}.parquet", pa.Table.from_pylist(rows, FRAMES_SCHEMA))


def _frame(number: int) -> dict[str, Any]:
    sequence, place = divmod(number, SEQUENCE)
    values = {"sequence": f"{sequence:04}", "name": f"t{place:04}", "time": place, "height": SIDE, "width": SIDE}
    values |= {"frame": f"{sequence:04}/t{place:04}", "dtype": "uint16", "group": f"{sequence:04}", "row": place}
    values |= {"sha256": digest("bench scale", number), "has_label": False, "partial": False}
    values |= {"image_xxh3": array_sum(str(values["frame"]), BLANK)}
    return values | {"label_origin": "ST", "pixel_size_um": 0.645, "is_blank": False}


def _cell(frame: str, label: int) -> dict[str, Any]:
    whole = {"cell": f"{frame}#{label}", "frame": frame, "label": label, "area": 400, "diameter": 22.6}
    box = {"x0": 100 * label, "y0": 50, "x1": 100 * label + 22, "y1": 72, "cx": 100.0 * label + 11, "cy": 61.0}
    return whole | box | {"touches_neighbour": False, "touches_border": False, "mean_intensity": 100.0}


def _plan_table(frames: pa.Table) -> pa.Table:
    rows: dict[str, list[Any]] = {name: [] for name in PLAN_SCHEMA.names}
    for frame, sha256 in zip(frames["frame"].to_pylist(), frames["sha256"].to_pylist(), strict=True):
        for tile, rect in enumerate(_tiles()):
            view = view_id(sha256, 0.0, 1000.0, rect)
            values = (view, frame, tile, 0, *rect, 0.0, 1000.0, 0, "{}", len(rows["row"]))
            for name, value in zip(PLAN_SCHEMA.names, values, strict=True):
                rows[name].append(value)
    return pa.table(rows, schema=PLAN_SCHEMA)


def _write_ledger(store: Store, plan: pa.Table) -> None:
    """Write the segments that so many commits of one view each leave."""
    pairs = list(zip(plan["view"].to_pylist(), plan["row"].to_pylist(), strict=True))
    for begin in range(0, len(pairs), MERGED):
        part = pairs[begin : begin + MERGED]
        lines = segment_text(Entry(view=view, row=row, sha256=digest(view)) for view, row in part)
        number = begin + MERGED - 1 if len(part) == MERGED else begin
        write_atomic(store.ledger().path / f"{number:0{DIGITS}d}.jsonl", lines)
