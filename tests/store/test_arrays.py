import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr
from zarr.core.metadata import ArrayV3Metadata

from hela_store.base.rng import generator
from hela_store.errors import StoreError
from hela_store.store.arrays import EMBEDDING_SHAPE, Arrays

KEY = "nano-0123"


@pytest.fixture
def arrays(tmp_path):
    return Arrays(tmp_path / "arrays.zarr")


def embedding(*key, scale=1.0):
    return (generator("embedding", *key).normal(size=EMBEDDING_SHAPE) * scale).astype("float32")


def part(arrays: Arrays, group: str, row: int, name: str) -> np.ndarray:
    found = arrays.frame_part(group, row, name)
    assert found is not None
    return found


def test_frames_come_back(arrays):
    image = np.arange(12 * 20, dtype="uint16").reshape(12, 20)
    label, valid = (image % 3).astype("int32"), image > 5
    arrays.add_frame_group("01", 2, (12, 20), "uint16")
    arrays.write_frame("01", 0, image, label, valid)
    arrays.write_frame("01", 1, image + 1, None, valid)
    assert np.array_equal(part(arrays, "01", 0, "image"), image)
    assert np.array_equal(part(arrays, "01", 1, "image"), image + 1)
    assert np.array_equal(part(arrays, "01", 0, "label"), label)
    assert part(arrays, "01", 0, "label").dtype == np.int32
    assert arrays.frame_part("01", 1, "label") is None
    assert np.array_equal(part(arrays, "01", 1, "valid"), valid)
    assert part(arrays, "01", 1, "valid").dtype == bool


def test_a_group_grows_and_never_shrinks(arrays):
    image = np.ones((3, 4), "uint8")
    arrays.add_frame_group("a", 1, (3, 4), "uint8")
    arrays.write_frame("a", 0, image, None, image > 0)
    reader = Arrays(Path(arrays.storage.root))
    assert np.array_equal(part(reader, "a", 0, "image"), image)
    arrays.add_frame_group("a", 3, (3, 4), "uint8")
    arrays.add_frame_group("a", 2, (3, 4), "uint8")
    arrays.write_frame("a", 2, image, None, image > 0)
    assert np.array_equal(part(arrays, "a", 0, "image"), image)
    assert np.array_equal(part(reader, "a", 2, "image"), image)  # although it knew the old length
    with pytest.raises(StoreError, match="has 3 rows"):
        part(arrays, "a", 3, "image")


def test_frames_that_do_not_fit_their_group_are_refused(arrays):
    arrays.add_frame_group("a", 1, (3, 4), "uint8")
    with pytest.raises(StoreError, match="cannot take uint16"):
        arrays.add_frame_group("a", 1, (3, 4), "uint16")
    with pytest.raises(StoreError, match="cannot take"):
        arrays.write_frame("a", 0, np.ones((4, 3), "uint8"), None, np.ones((4, 3), bool))
    with pytest.raises(StoreError, match="cannot take float32"):
        arrays.write_frame("a", 0, np.ones((3, 4), "float32"), None, np.ones((3, 4), bool))
    with pytest.raises(StoreError, match="no array frames/b/image"):
        part(arrays, "b", 0, "image")


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd", "bitround:6"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_embeddings_come_back_as_stored(arrays, codec, dtype):
    arrays.create_embeddings(KEY, 3, dtype, codec)
    stored = arrays.write_embedding(KEY, 1, embedding(codec))
    assert stored.dtype == dtype
    assert np.array_equal(Arrays(Path(arrays.storage.root)).embedding(KEY, 1), stored)
    rounding = 2.0**-6.9 if codec.startswith("bitround") else 2.0**-11
    assert np.allclose(stored, embedding(codec), rtol=rounding, atol=1e-5)
    with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0 is not there; `hela-store verify --repair`"):
        arrays.embedding(KEY, 0)
    assert [p.name for p in arrays.chunk_path(KEY, 1).parent.glob("c.*")] == [arrays.chunk_path(KEY, 1).name]


def test_the_array_is_what_the_format_says(arrays):
    arrays.create_embeddings(KEY, 2, "float16", "bitround:6")
    metadata = json.loads((Path(arrays.storage.root) / "embeddings" / KEY / "embedding" / "zarr.json").read_text())
    assert metadata["shape"] == [2, 256, 64, 64]
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [1, 256, 64, 64]
    assert metadata["fill_value"] == "NaN"
    assert metadata["dimension_names"] == ["view", "channel", "y", "x"]
    assert metadata["chunk_key_encoding"]["configuration"]["separator"] == "."
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "blosc"]
    assert metadata["codecs"][0]["configuration"]["endian"] == "little"
    group = json.loads((Path(arrays.storage.root) / "zarr.json").read_text())
    assert group.get("consolidated_metadata") is None  # older zarr writes null where newer ones write nothing


def test_an_array_of_zeros_is_still_written(arrays):
    arrays.create_embeddings(KEY, 1, "float16", "zstd")
    arrays.write_embedding(KEY, 0, np.zeros(EMBEDDING_SHAPE, "float32"))
    assert not arrays.embedding(KEY, 0).any()
    arrays.add_frame_group("a", 1, (3, 4), "uint8")
    arrays.write_frame("a", 0, np.zeros((3, 4), "uint8"), None, np.zeros((3, 4), bool))
    assert (Path(arrays.storage.root) / "frames/a/image/c.0.0.0").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 70000.0])
def test_what_float16_cannot_hold_is_refused(arrays, bad):
    arrays.create_embeddings(KEY, 1, "float16", "zstd")
    values = embedding("bad")
    values[5, 6, 7] = bad
    with pytest.raises(StoreError, match=r'float16 cannot hold.*dtype = "float32"'):
        arrays.write_embedding(KEY, 0, values)
    assert not arrays.chunk_path(KEY, 0).exists()


def test_only_the_planner_makes_rows(arrays):
    with pytest.raises(StoreError, match="hela-store embed"):
        arrays.write_embedding(KEY, 0, embedding(0))
    arrays.create_embeddings(KEY, 1, "float16", "zstd")
    with pytest.raises(StoreError, match="has 1 rows"):
        arrays.write_embedding(KEY, 1, embedding(0))
    with pytest.raises(StoreError, match="shape"):
        arrays.write_embedding(KEY, 0, embedding(0)[:, :32])


def test_a_key_keeps_its_embeddings_when_it_grows_and_when_another_comes(arrays):
    arrays.create_embeddings(KEY, 1, "float16", "lz4")
    stored = arrays.write_embedding(KEY, 0, embedding(1))
    arrays.create_embeddings(KEY, 4, "float16", "zstd")
    arrays.create_embeddings(KEY, 2, "float16", "lz4")
    arrays.create_embeddings("vit_b-1", 4, "float32", "raw")
    arrays.write_embedding("vit_b-1", 0, embedding(2))
    assert np.array_equal(arrays.embedding(KEY, 0), stored)
    assert arrays.embedding_array(KEY).shape[0] == 4
    assert arrays.embedding_keys() == [KEY, "vit_b-1"]


def test_coordinates_stand_beside_the_rows(arrays):
    columns: dict[str, list[Any]] = {
        "view": ["a", "b"],
        "frame": ["01/t000", "01/t001"],
        "tile": [0, 1],
        "variant": [0, 0],
    }
    arrays.create_embeddings(KEY, 2, "float16", "zstd")
    arrays.write_coordinates(KEY, pa.table(columns))
    arrays.write_coordinates(KEY, pa.table({name: [*values, values[-1]] for name, values in columns.items()}))
    group = zarr.open_group(Path(arrays.storage.root) / "embeddings" / KEY, mode="r", use_consolidated=False)
    found = {name: array for name, array in group.arrays() if name in columns}
    assert np.asarray(found["view"][:]).tolist() == ["a", "b", "b"]
    assert np.asarray(found["tile"][:]).tolist() == [0, 1, 1]
    assert isinstance(found["frame"].metadata, ArrayV3Metadata)
    assert found["frame"].metadata.dimension_names == ("view",)


def test_of_coordinates_only_new_chunks_are_written(arrays, monkeypatch):
    monkeypatch.setattr("hela_store.store.arrays.COORDINATE_CHUNK", 4)
    folder = Path(arrays.storage.root) / "embeddings" / KEY / "view"

    def write(count):
        columns = {"view": [f"v{i}" for i in range(count)], "frame": ["f"] * count}
        arrays.write_coordinates(KEY, pa.table({**columns, "tile": [0] * count, "variant": range(count)}))
        assert arrays.coordinate(KEY, "view") == columns["view"]
        return {path.name: path.stat().st_ino for path in folder.glob("c.*")}

    arrays.create_embeddings(KEY, 20, "float16", "zstd")
    before = write(10)
    assert sorted(before) == ["c.0", "c.1", "c.2"]
    after = write(15)
    assert {name for name in after if after[name] != before.get(name)} == {"c.2", "c.3"}
    assert write(15) == after
    # killed after the array had grown and the first of the new chunks was written
    for name in ("c.2", "c.3"):
        (folder / name).unlink()
    assert sorted(write(15)) == ["c.0", "c.1", "c.2", "c.3"]


def test_coordinates_of_rows_in_the_middle_follow_the_plan(arrays, monkeypatch):
    monkeypatch.setattr("hela_store.store.arrays.COORDINATE_CHUNK", 4)
    # nobody knows rows 4 to 11 any more, a whole chunk and the last one: what they say is the fill value
    known = [i < 4 for i in range(12)]
    columns: dict[str, list[Any]] = {
        "view": [f"v{i}" if there else "" for i, there in enumerate(known)],
        "frame": ["f" if there else "" for there in known],
        "tile": [i if there else -1 for i, there in enumerate(known)],
        "variant": [0 if there else -1 for there in known],
    }
    arrays.create_embeddings(KEY, 12, "float16", "zstd")
    arrays.write_coordinates(KEY, pa.table(columns))
    assert {name: arrays.coordinate(KEY, name) for name in columns} == columns
    columns["frame"][1], columns["tile"][2] = "another", 7
    arrays.write_coordinates(KEY, pa.table(columns))
    assert {name: arrays.coordinate(KEY, name) for name in columns} == columns


@pytest.mark.parametrize("lost", [range(4), range(2, 4), range(3, 4), range(0)])
def test_coordinates_that_are_added_are_written_from_the_end(arrays, monkeypatch, lost):
    monkeypatch.setattr("hela_store.store.arrays.COORDINATE_CHUNK", 4)
    folder = Path(arrays.storage.root) / "embeddings" / KEY / "view"
    names = [f"v{i}" for i in range(14)]
    columns = {"view": names, "frame": ["f"] * 14, "tile": [0] * 14, "variant": range(14)}
    arrays.create_embeddings(KEY, 14, "float16", "zstd")
    arrays.write_coordinates(KEY, pa.table(columns))
    for number in lost:  # killed before it wrote these
        (folder / f"c.{number}").unlink()
    before = {path.name: path.stat().st_ino for path in folder.glob("c.*")}
    arrays.write_coordinates(KEY, pa.table(columns), from_end=True)
    assert arrays.coordinate(KEY, "view") == names
    after = {path.name: path.stat().st_ino for path in folder.glob("c.*")}
    assert after.items() >= before.items() and len(after) == 4


def test_a_cut_chunk_is_an_error_not_values(arrays):
    arrays.create_embeddings(KEY, 1, "float16", "zstd")
    arrays.write_embedding(KEY, 0, embedding(1))
    chunk = arrays.chunk_path(KEY, 0)
    chunk.write_bytes(chunk.read_bytes()[:1000])
    with pytest.raises(
        StoreError, match=r"c\.0\.0\.0\.0 is damaged: it is too short; run `hela-store verify --repair`"
    ):
        arrays.embedding(KEY, 0)


def test_arrays_travel_to_workers(arrays):
    arrays.create_embeddings(KEY, 1, "float16", "zstd")
    stored = arrays.write_embedding(KEY, 0, embedding(1))
    assert np.array_equal(pickle.loads(pickle.dumps(arrays)).embedding(KEY, 0), stored)
