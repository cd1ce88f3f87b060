"""Very many rows of per-cell metrics: inserted and asked for in the catalog, in pandas and in SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hela_store.base.extras import needs
from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.catalog import index as catalog
from hela_store.evaluation.reads import labels_read
from hela_store.evaluation.rows import PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.runs.folder import new_run
from hela_store.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

RUNS, PROMPTS, SEEDS = 10, ("box", "box-exact", "point", "mask", "box+mask"), 2
PER_CELL = RUNS * len(PROMPTS) * SEEDS
COLUMNS = ("run", "prompt", "prompt_seed", "cell", "iou", "dice", "failure", "diameter", "touches_neighbour")
QUERIES = {
    "scores by run and prompt": "SELECT run, prompt, avg(iou), avg(dice) FROM cell_metrics GROUP BY run, prompt",
    "cells that fell from one run to another": (
        "SELECT a.cell, a.prompt_seed, a.iou, b.iou FROM cell_metrics a JOIN cell_metrics b "
        "ON a.prompt = b.prompt AND a.prompt_seed = b.prompt_seed AND a.cell = b.cell "
        "WHERE a.run = '{first}' AND b.run = '{last}' AND a.prompt = 'box' AND b.iou < a.iou - 0.1"
    ),
    "how they failed": "SELECT run, failure, count(*) FROM cell_metrics GROUP BY run, failure",
    "the twenty worst": "SELECT cell, run, iou FROM cell_metrics ORDER BY iou, cell, run LIMIT 20",
    "scores by size of the cell": (
        "SELECT cast(diameter / 5 AS INTEGER) AS bin, touches_neighbour, avg(iou) FROM cell_metrics "
        "WHERE prompt = 'point' GROUP BY 1, 2"
    ),
}
"""Each in the same words for DuckDB and SQLite."""


@dataclass(frozen=True, kw_only=True)
class RowsBench:
    """Results of the row benchmark: rows per second from files into each, and seconds of each query.

    pandas has the rows in memory before it is asked, the two databases do not.
    """

    rows: int
    insert: dict[str, float]
    queries: dict[str, dict[str, float]]


def bench_rows(rows: int, make: Callable[[Path, int], Store], progress: Progress = silent) -> RowsBench:
    """Publish runs with so many predictions into a store from ``make``, index them, ask five questions three ways."""
    with needs("bench"):
        import pandas as pd
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        store = make(path, max(4, rows // PER_CELL))
        catalog.index(path)
        runs = [_publish(store, number) for number in progress(range(RUNS), total=RUNS, what="draw runs")]
        seconds = {"catalog": _timed(lambda: catalog.index(path))}
        flat = catalog.query(path, f"SELECT {', '.join(COLUMNS)} FROM cell_metrics")
        pq.write_table(flat, Path(folder) / "flat.parquet")
        with contextlib.closing(sqlite3.connect(Path(folder) / "flat.sqlite")) as database:
            seconds["sqlite"] = _timed(lambda: _insert(database, flat))
            start = time.perf_counter()
            frame = pd.read_parquet(Path(folder) / "flat.parquet")
            seconds["pandas"] = time.perf_counter() - start
            found: dict[str, dict[str, float]] = {}
            for name, ours in _in_pandas(frame, runs).items():
                sql = QUERIES[name].format(first=runs[0], last=runs[-1])
                found[name] = {
                    "catalog": _timed(partial(catalog.query, path, sql)),
                    "sqlite": _timed(partial(_fetch, database, sql)),
                    "pandas": _timed(ours),
                }
    return RowsBench(rows=len(flat), insert={who: len(flat) / taken for who, taken in seconds.items()}, queries=found)


def _timed(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _publish(store: Store, number: int) -> str:
    cells = store.cells_table().select(["cell", "frame"])
    folder = new_run(
        store.path, "evaluate", {"encoder": store.key, "split": "val"} | labels_read(store), label=str(number)
    )
    rng, each = generator("bench rows", number), len(PROMPTS) * SEEDS
    count = len(cells) * each
    where = pa.array(np.repeat(np.arange(len(cells)), each))
    kinds = np.tile(np.repeat(PROMPTS, SEEDS), len(cells))
    given = {
        "prompt_id": pa.array(np.arange(count)).cast(pa.string()),
        "kind": pa.array(kinds),
        "prompt_seed": pa.array(np.tile(np.arange(SEEDS), len(cells) * len(PROMPTS))),
        "cell": cells["cell"].take(where),
        "frame": cells["frame"].take(where),
        "cut": pa.array(np.zeros(count, bool)),
    }
    iou = rng.beta(8, 2, count)
    failures = np.array(["", "leak", "merged", "under-segmented"])[rng.choice(4, count, p=[0.85, 0.05, 0.05, 0.05])]
    made = {name: given[name] for name in ("prompt_id", "cell", "frame")} | {
        "iou": pa.array(iou),
        "dice": pa.array(2 * iou / (1 + iou)),
        "predicted_iou": pa.array(iou),
        "is_empty": pa.array(np.zeros(count, bool)),
        "failure": pa.array(failures),
    }
    folder.write_table("prompts", _table(given, PROMPT_SCHEMA, count))
    folder.write_table("predictions", _table(made, PREDICTION_SCHEMA, count))
    folder.publish()
    return folder.id


def _table(columns: dict[str, Any], schema: pa.Schema, rows: int) -> pa.Table:
    return pa.table(
        [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in schema],
        schema=schema,
    )


def _fetch(database: sqlite3.Connection, sql: str) -> list[Any]:
    return database.execute(sql).fetchall()


def _insert(database: sqlite3.Connection, flat: pa.Table) -> None:
    database.execute(f"CREATE TABLE cell_metrics ({', '.join(COLUMNS)})")
    for batch in flat.to_batches(max_chunksize=100_000):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        database.executemany(f"INSERT INTO cell_metrics VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    database.commit()


def _in_pandas(frame: pd.DataFrame, runs: list[str]) -> dict[str, Callable[[], Any]]:
    """Return the questions of :data:`QUERIES` as one writes them in pandas."""

    def fell() -> pd.DataFrame:
        box = frame[frame.prompt == "box"]
        pair = [box[box.run == run] for run in (runs[0], runs[-1])]
        both = pair[0].merge(pair[1], on=["prompt", "prompt_seed", "cell"], suffixes=("_a", "_b"))
        return both[both.iou_b < both.iou_a - 0.1][["cell", "prompt_seed", "iou_a", "iou_b"]]

    def by_size() -> pd.DataFrame:
        points = frame[frame.prompt == "point"]
        return points.groupby([(points.diameter / 5).astype(int), "touches_neighbour"]).iou.mean()

    return {
        "scores by run and prompt": lambda: frame.groupby(["run", "prompt"])[["iou", "dice"]].mean(),
        "cells that fell from one run to another": fell,
        "how they failed": lambda: frame.groupby(["run", "failure"]).size(),
        "the twenty worst": lambda: frame.nsmallest(20, "iou"),
        "scores by size of the cell": by_size,
    }
