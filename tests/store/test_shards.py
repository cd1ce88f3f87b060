"""Embeddings in shards: the bytes that Zarr writes, with the promises that hold for an object a view."""

from __future__ import annotations

import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from hela_store.base.rng import generator
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import RecipeError, StoreError
from hela_store.exchange.publish import publish
from hela_store.exchange.pull import pull
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.recipe.recipe import ArraysRecipe, parse_recipe
from hela_store.recipe.toml import recipe_text
from hela_store.store.arrays import Arrays
from hela_store.store.ledger import Entry, Ledger
from hela_store.store.shard import pack, unpack
from hela_store.store.shards import Gatherer
from hela_store.store.store import Store
from hela_store.workflows.info import info
from stores import reshard

SHAPE = (2, 3, 5)


def values(row: int) -> np.ndarray:
    return generator("shards", row).normal(size=SHAPE).astype(np.float32)


def gatherer(arrays: Arrays, folder: Path, rows: list[int]) -> Gatherer:
    """Write and commit rows."""
    ledger = Ledger(folder / "ledger" / "k")
    for row in rows:
        stored = arrays.write_embedding("k", row, values(row))
        ledger.commit([Entry.of(f"v{row}", row, stored)])
    return Gatherer(arrays, "k", ledger)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "arrays.zarr/embeddings/k/embedding").glob("c.*")}


@pytest.fixture
def arrays(tmp_path: Path) -> Arrays:
    found = Arrays(tmp_path / "arrays.zarr", tmp_path / "staged")
    found.create_embeddings("k", 10, "float16", "zstd", SHAPE, shard=4)
    return found


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd", "bitround:7"])
@pytest.mark.parametrize("rows", [list(range(10)), [0, 2, 3, 5, 9]])
def test_the_bytes_are_those_that_zarr_writes(tmp_path: Path, codec: str, rows: list[int]) -> None:
    arrays = Arrays(tmp_path / "arrays.zarr", tmp_path / "staged")
    arrays.create_embeddings("k", 10, "float16", codec, SHAPE, shard=4)
    gatherer(arrays, tmp_path, rows).finish()
    shutil.copytree(tmp_path / "arrays.zarr", tmp_path / "zarr/arrays.zarr")
    for file in (tmp_path / "zarr/arrays.zarr/embeddings/k/embedding").glob("c.*"):
        file.unlink()
    ours = zarr.open_array(tmp_path / "arrays.zarr/embeddings/k/embedding", mode="r")
    with zarr.config.set({"array.write_empty_chunks": True}):
        theirs = zarr.open_array(tmp_path / "zarr/arrays.zarr/embeddings/k/embedding", mode="r+")
        for row in rows:
            theirs[row] = arrays.embedding("k", row)
    assert np.array_equal(np.asarray(ours[:]), np.asarray(theirs[:]), equal_nan=True)
    if len(rows) == 10:  # of a shard with gaps Zarr writes the gaps, too, once it has seen one of its rows
        assert files(tmp_path) == files(tmp_path / "zarr")
    for row in range(10):
        assert np.isfinite(np.asarray(ours[row])).all() == (row in rows)


def test_a_shard_is_written_as_soon_as_it_is_whole(arrays: Arrays, tmp_path: Path) -> None:
    found = gatherer(arrays, tmp_path, [])
    ledger = Ledger(tmp_path / "ledger" / "k")
    for row in (0, 2, 1, 9, 3, 8):
        stored = arrays.write_embedding("k", row, values(row))
        ledger.commit([Entry.of(f"v{row}", row, stored)])
        found.add([row])
        assert np.array_equal(arrays.embedding("k", row), values(row).astype(np.float16))
    # the last one has room for two rows only
    assert set(files(tmp_path)) == {"c.0.0.0.0", "c.2.0.0.0"} and arrays.staged.rows("k") == []
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0 is not there; `hela-store verify --repair`"):
        arrays.embedding("k", 5)


def test_history_leaves_no_trace_in_the_bytes(arrays: Arrays, tmp_path: Path) -> None:
    gatherer(arrays, tmp_path, list(range(10))).finish()
    other = tmp_path / "other"
    pieces = Arrays(other / "arrays.zarr", other / "staged")
    pieces.create_embeddings("k", 6, "float16", "zstd", SHAPE, shard=4)
    for rows in ([1], [5, 0], [3, 2]):
        gatherer(pieces, other, rows).finish()
        assert pieces.staged.rows("k") == []
    pieces.create_embeddings("k", 10, "float16", "zstd", SHAPE, shard=4)
    gatherer(pieces, other, [9, 6, 4, 1, 8, 7]).finish()
    assert files(other) == files(tmp_path)


def test_what_is_staged_and_not_committed_is_in_no_shard(arrays: Arrays, tmp_path: Path) -> None:
    found = gatherer(arrays, tmp_path, [0])
    arrays.write_embedding("k", 1, values(1))
    found.finish()
    assert arrays.rows_in_shard("k", 0) == {0} and arrays.staged.rows("k") == []


def test_killed_between_the_shard_and_what_was_staged(arrays: Arrays, tmp_path: Path) -> None:
    gatherer(arrays, tmp_path, [0, 1]).finish()
    before = files(tmp_path)
    (tmp_path / "staged/k/1").write_bytes(unpack(before["c.0.0.0.0"], 4)[1] or b"")
    gatherer(arrays, tmp_path, []).finish()
    assert files(tmp_path) == before and arrays.staged.rows("k") == []


def test_rows_are_added_to_no_damaged_shard(arrays: Arrays, tmp_path: Path) -> None:
    gatherer(arrays, tmp_path, [0, 1]).finish()
    path = arrays.chunk_path("k", 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"its index is damaged, .* run `hela-store verify --repair`"):
        arrays.embedding("k", 0)
    with pytest.raises(StoreError, match="its index is damaged"):
        gatherer(arrays, tmp_path, [2]).finish()
    # what is encoded again takes the place of all that was in it
    gatherer(arrays, tmp_path, [0, 1]).finish()
    assert arrays.rows_in_shard("k", 0) == {0, 1, 2}
    assert np.array_equal(arrays.embedding("k", 2), values(2).astype(np.float16))


def test_whoever_reads_meanwhile_reads_what_is_right(arrays: Arrays, tmp_path: Path) -> None:
    gatherer(arrays, tmp_path, [0]).finish()
    wrong: list[Any] = []
    done = threading.Event()

    def read() -> None:
        reader = Arrays(tmp_path / "arrays.zarr", tmp_path / "staged")
        while not done.is_set():
            try:
                if not np.array_equal(reader.embedding("k", 0), values(0).astype(np.float16)):
                    wrong.append("other values")
            except StoreError as error:
                wrong.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for rows in ([3], [1], [0, 2], [2], [0], [0, 1]):
        gatherer(arrays, tmp_path, rows).finish()
    done.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("gap", [False, True])
def test_pack_and_unpack(gap: bool) -> None:
    chunks = [b"one", None if gap else b"", b"three"]
    assert unpack(pack(chunks), 3) == chunks
    data = pack(chunks)
    for place in range(len(data) - 52, len(data)):
        with pytest.raises(StoreError, match="index is damaged"):
            unpack(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :], 3)
    with pytest.raises(StoreError, match="index is damaged"):
        unpack(data[3:], 3)


def test_the_recipe(embedded: Path) -> None:
    recipe = Store.open(embedded).recipe
    assert "shard" not in recipe_text(recipe)
    sharded = replace(recipe, arrays=replace(recipe.arrays, shard=64))
    assert parse_recipe(recipe_text(sharded)) == sharded
    for shard in (1, -4, 5000):
        with pytest.raises(RecipeError, match=r"arrays.shard \(views; 0 for an object each\)"):
            ArraysRecipe(shard=shard)


def test_a_store_in_shards_is_made_resumed_and_equal(embedded: Path, tmp_path: Path) -> None:
    plain = Store.open(embedded)
    (tmp_path / "made").mkdir()
    shutil.copy(embedded / "store.toml", tmp_path / "made")
    shutil.copytree(embedded / "data", tmp_path / "made/data")
    recipe = tmp_path / "made/store.toml"
    recipe.write_text(recipe.read_text().replace("[arrays]\n", "[arrays]\nshard = 3\n"))

    def press(iterable: Any, *, total: int, what: str) -> Any:
        for number, item in enumerate(iterable):
            yield item
            if what == "embed" and number == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        embed(Store.open(recipe), progress=press)
    store = Store.open(recipe)
    there = len(store.committed())
    assert 4 <= there < 8 and verify(store).whole and verify(store, VerifyConfig(fast=True)).whole
    for row in store.committed().values():  # of which some are in no shard yet
        assert store.embedding_at(row).tobytes() == plain.embedding_at(row).tobytes()
    assert embed(Store.open(recipe), EmbedConfig(limit=1)).done_now == 1
    assert embed(Store.open(recipe)).done_now == 7 - there
    store = Store.open(recipe)
    assert store.ledger().entries() == plain.ledger().entries()
    folder = store.arrays.chunk_path(store.key, 0).parent
    assert {file.name for file in folder.iterdir()} == {"zarr.json", "c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0"}
    assert store.arrays.staged.rows(store.key) == []
    array = zarr.open_array(folder, mode="r")
    assert np.array_equal(np.asarray(array[4]), plain.embedding_at(4))
    report = verify(Store.open(recipe))
    assert report.whole and (report.committed, report.left, report.unclaimed) == (8, 0, 0)
    assert info(store).bytes["arrays.zarr"] > 8_000_000
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert embed(Store.open(recipe)).done_now == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_one_embedding_in_a_shard_is_repaired(store: Store) -> None:
    sharded = reshard(store, 4)
    assert verify(sharded).whole
    paths = [sharded.arrays.chunk_path(sharded.key, row) for row in (0, 4)]
    before = [path.read_bytes() for path in paths]
    chunks = unpack(before[0], 4)
    flipped = bytearray(chunks[2] or b"")
    flipped[5000] ^= 1
    paths[0].write_bytes(pack([chunks[1], chunks[0], bytes(flipped), None]))
    report = verify(Store.open(store.path))
    assert [fault.kind for fault in report.faults] == ["swapped", "swapped", "flipped", "missing"]
    assert [fault.row for fault in report.faults] == [0, 1, 2, 3]
    with pytest.raises(StoreError, match=r"the embedding of view .*`hela-store verify --repair`"):
        sharded.embedding_at(2)
    paths[1].unlink()
    report = verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu"))
    assert report.whole and report.encoded == 8
    assert [path.read_bytes() for path in paths] == before


def test_a_store_in_shards_is_published_and_pulled(store: Store, tmp_path: Path) -> None:
    sharded = reshard(store, 3)
    publish(sharded, str(tmp_path / "out"))
    pull(str(tmp_path / "out"), tmp_path / "mine")
    there = Store.open(tmp_path / "mine")
    assert there.recipe.arrays.shard == 3 and verify(there).whole
