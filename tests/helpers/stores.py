"""Ways to look at a store and to take views back out of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hela_store.base.manifest import Sums
from hela_store.base.parquet import write_parquet
from hela_store.base.sums import array_sum
from hela_store.runs.info import MANIFEST, manifest_of
from hela_store.store.store import Store


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a store, or another folder, that one of the processes of this run makes, and all of them read."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path, partial = folder / name, folder / f"{name}.partial"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(path)
            if (path / "store.toml").exists():
                Store.open(path).sql("SELECT 1")  # indexed now, so that nothing is written while others copy it
    return path


def chunks(store: Store) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(store.arrays.chunk_path(store.key, 0).parent.glob("c.*"))}


def forget(store: Store, views: int, chunks_too: bool = True) -> list[int]:
    """Take the last views back out of the ledger, as if the job had been killed before them."""
    rows = []
    for segment in sorted(store.ledger().path.iterdir())[-views:]:
        row = json.loads(segment.read_text())["row"]
        segment.unlink()
        if chunks_too:
            store.arrays.chunk_path(store.key, row).unlink()
        rows.append(row)
    return rows


def reseal(run: Path) -> None:
    """Write the manifest of a published run again, as if it had been made with the files that are there now."""
    (run / MANIFEST).write_text(manifest_of(run))


def reseal_tables(store: Path) -> None:
    """Write the sums of the files in ``ingest/`` and ``plan/`` again, as if they had been made as they are now."""
    Sums(store).add([path for folder in ("ingest", "plan") for path in (store / folder).glob("*.parquet")])


def reseal_labels(store: Path) -> None:
    """Write the sums of all stored labels again, as if the frames had been ingested with them."""
    arrays = Store.open(store).arrays
    for path in sorted((store / "ingest").glob("frames-*.parquet")):
        table = pq.read_table(path)
        sums = []
        for frame, group, row in zip(*(table[name].to_pylist() for name in ("frame", "group", "row")), strict=True):
            label = arrays.frame_part(group, row, "label")
            assert label is not None
            sums.append(array_sum(frame, label))
        place = table.column_names.index("label_xxh3")
        write_parquet(path, table.set_column(place, table.schema.field(place), pa.array(sums)))
    reseal_tables(store)


def changed(store: Store, **parts: Any) -> Store:
    return Store(store.path, replace(store.recipe, **parts))


def reshard(store: Store, shard: int) -> Store:
    """Put the embeddings of a store into shards, as if it had been made with ``arrays.shard``; return it opened again."""
    folder = f"embeddings/{store.key}/embedding"
    array, rows = store.arrays.embedding_array(store.key), sorted(store.committed().values())
    values = {row: store.arrays.embedding(store.key, row) for row in rows}
    store.arrays.storage.remove(folder)
    recipe = store.path / "store.toml"
    recipe.write_text(recipe.read_text().replace("[arrays]\n", f"[arrays]\nshard = {shard}\n"))
    after = Store.open(store.path)
    how = (array.shape[0], str(array.dtype), store.recipe.arrays.codec, array.shape[1:])
    after.arrays.create_embeddings(store.key, *how, shard=shard)  # type: ignore[arg-type]
    for row in rows:
        after.arrays.write_embedding(store.key, row, values[row])
    after.gather()
    return after
