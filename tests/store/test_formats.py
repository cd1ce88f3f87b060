"""The committed store of format 1 opens, is whole, and has the bytes that stores/README.md promises.

What checks the bytes uses nothing of ours and no Zarr: JSON, Blosc, Parquet and sha256, as another reader would.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
from numcodecs import Blosc
from pycocotools import mask as coco
from safetensors import safe_open

from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.store.store import Store

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parents[1] / "data/formats"
PAGE = (ROOT / "stores/README.md").read_text()
KEY = "nano-7a95e2d833d5"
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats") / "v1"
    shutil.copytree(HERE / "v1", path)
    for packed in path.rglob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return path


def row_of(path: Path, row: int, dims: int) -> bytes:
    name = ".".join(["c", str(row), *["0"] * (dims - 1)])
    return Blosc().decode((path / name).read_bytes())


def table(path: Path, name: str) -> list[dict[str, Any]]:
    (file,) = path.glob(name)
    return pq.read_table(file).to_pylist()


def digest(*parts: str | int | float) -> str:
    """As the page says it."""
    total = hashlib.sha256()
    for part in parts:
        text = repr(part).encode()
        total.update(f"{type(part).__name__}:{len(text)}:".encode() + text)
    return total.hexdigest()


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in (HERE / "v1").rglob("*") if path.is_file()) < MOST_BYTES


def test_this_version_reads_and_verifies_it(v1: Path) -> None:
    store = Store.open(v1)
    found = verify(store)
    assert found.whole, found.faults
    assert (found.key, found.committed, found.left) == (KEY, 12, 0)
    data = store.xarray()
    assert dict(data.sizes) == {"view": 12, "channel": 256, "y": 64, "x": 64}
    one = data.embedding[(data.frame == "01/t001") & (data.tile == 1) & (data.variant == 1)][0]
    np.testing.assert_array_equal(one, store.embedding("01/t001", tile=1, variant=1))
    assert one[:4].values.std() > 0.1 and np.isfinite(one).all()
    view = store.view("01/t001", tile=1, variant=1)
    assert view.rect == (32, 0, 96, 96) and len(view.cells) > 0
    frames = store.frames("01")
    assert frames.image.dtype == "uint16" and frames.label.values.max() > 0


def test_its_catalog_can_be_made_from_it(v1: Path) -> None:
    store = Store.open(v1)
    counts = "SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM views), (SELECT count(*) FROM committed)"
    assert store.sql(counts).fetchall() == [(3, 12, 12)]
    kinds = "SELECT kind, count(*) FROM runs GROUP BY ALL ORDER BY ALL"
    assert store.sql(kinds).fetchall() == [("baseline", 2), ("evaluate", 2), ("finetune", 1)]
    query = "SELECT count(*), avg(iou) FROM cell_metrics WHERE kind = 'baseline' AND prompt = 'box-exact'"
    cells, iou = store.sql(query).fetchall()[0]
    assert cells > 0 and 0.7 < iou < 0.95
    assert store.sql("SELECT count(*) FROM detections").fetchall()[0][0] > 0


def test_frames_and_labels_are_where_the_page_says(v1: Path) -> None:
    for frame in table(v1, "ingest/frames-0001.parquet"):
        folder, shape = v1 / "arrays.zarr/frames" / frame["group"], (frame["height"], frame["width"])
        pixels = row_of(folder / "image", frame["row"], 3)
        head = f"{frame['dtype']}:{frame['height']}x{frame['width']}:".encode()
        assert hashlib.sha256(head + pixels).hexdigest() == frame["sha256"]
        label = np.frombuffer(row_of(folder / "label", frame["row"], 3), "<i4").reshape(shape)
        valid = np.frombuffer(row_of(folder / "valid", frame["row"], 3), "?").reshape(shape)
        cells = [c for c in table(v1, "ingest/cells-0001.parquet") if c["frame"] == frame["frame"]]
        assert {c["label"]: c["area"] for c in cells} == {n: (label == n).sum() for n in np.unique(label) if n}
        for cell in cells:
            rows, columns = np.nonzero(label == cell["label"])
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (cell["x0"], cell["y0"], cell["x1"], cell["y1"]) == box
        assert valid.any()


def test_the_ledger_is_over_id_and_decoded_bytes(v1: Path) -> None:
    array = v1 / "arrays.zarr/embeddings" / KEY / "embedding"
    lines = [json.loads(line) for path in sorted(v1.glob("ledger/*/*.jsonl")) for line in path.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(12))
    for line in lines:
        raw = row_of(array, line["row"], 4)
        assert hashlib.sha256(line["view"].encode() + raw).hexdigest() == line["sha256"]
        assert np.frombuffer(raw, "<f2").size == 256 * 64 * 64


@pytest.fixture
def in_shards(v1: Path, tmp_path: Path) -> Path:
    path = tmp_path / "v1"
    shutil.copytree(v1, path)
    shutil.rmtree(path / "arrays.zarr/embeddings" / KEY / "embedding")
    shutil.copytree(HERE / "v1-shards", path, dirs_exist_ok=True)
    recipe = path / "store.toml"
    recipe.write_text(recipe.read_text().replace("[arrays]\n", "[arrays]\nshard = 8\n"))
    return path


def test_embeddings_in_shards_are_where_the_page_says(in_shards: Path) -> None:
    array = in_shards / "arrays.zarr/embeddings" / KEY / "embedding"
    lines = [json.loads(line) for path in in_shards.glob("ledger/*/*.jsonl") for line in path.read_text().splitlines()]
    staged = {int(path.name) for path in (in_shards / "staged" / KEY).iterdir()}
    assert staged == {11} and {path.name for path in array.iterdir()} == {"zarr.json", "c.0.0.0.0", "c.1.0.0.0"}
    for line in lines:
        shard, number = divmod(line["row"], 8)
        data = (array / f"c.{shard}.0.0.0").read_bytes()
        body, crc = data[-16 * 8 - 4 : -4], data[-4:]
        assert google_crc32c.value(body) == int.from_bytes(crc, "little")
        offset, length = struct.unpack_from("<2Q", body, 16 * number)
        if line["row"] in staged:
            assert offset == length == 2**64 - 1
            chunk = (in_shards / "staged" / KEY / str(line["row"])).read_bytes()
        else:
            chunk = data[offset : offset + length]
        assert hashlib.sha256(line["view"].encode() + Blosc().decode(chunk)).hexdigest() == line["sha256"]


def test_this_version_reads_and_verifies_shards(v1: Path, in_shards: Path) -> None:
    store, plain = Store.open(in_shards), Store.open(v1)
    found = verify(store)
    assert found.whole, found.faults
    assert (found.committed, found.left) == (12, 0)
    for row in range(12):
        assert store.embedding_at(row).tobytes() == plain.embedding_at(row).tobytes()
    assert verify(Store.open(in_shards), VerifyConfig(fast=True)).whole


def test_names_digest_what_the_page_says(v1: Path) -> None:
    frames = table(v1, "ingest/frames-0001.parquet")
    sums = {frame["frame"]: frame["sha256"] for frame in frames}
    views = table(v1, "plan/*.parquet")
    for view in views:
        rect = (view["x0"], view["y0"], view["width"], view["height"])
        expected = digest("view", sums[view["frame"]], view["lo"], view["hi"], *rect, view["params"])
        assert view["view"] == expected[:24]
    store = Store.open(v1)
    recipe = store.recipe
    made = ("nano", "float32", "percentile", 0.5, 99.8, "bilinear-antialias-1024", "float16", "")
    parts = (recipe.encoder.sha256, "", *made)
    assert f"nano-{digest(*parts)[:12]}" == KEY
    names = [part for frame in frames for part in (frame["frame"], frame["sha256"])]
    start = ("percentile", 0.5, 99.8, 32768.0, 96, recipe.views.overlap, "augment", recipe.augment.set, 1)
    assert next(v1.glob("plan/*.parquet")).stem == digest("plan", *start, *names)[:16]


def test_variants_have_their_labels_at_their_row(v1: Path) -> None:
    folder = v1 / "arrays.zarr/views/96x96"
    for view in table(v1, "plan/*.parquet"):
        chunks = [folder / name / f"c.{view['row']}.0.0" for name in ("label", "valid")]
        assert [chunk.exists() for chunk in chunks] == [view["variant"] == 1] * 2
        params = json.loads(view["params"])
        assert bool(params) == (view["variant"] == 1) and list(params) == sorted(params)
        assert all(f"`{name}`" in PAGE for name in params)


def test_arrays_are_core_zarr_v3_as_the_page_says(v1: Path) -> None:
    arrays = {path.parent: json.loads(path.read_text()) for path in (v1 / "arrays.zarr").rglob("zarr.json")}
    for folder, about in arrays.items():
        assert about["zarr_format"] == 3 and "consolidated_metadata" not in about
        if about["node_type"] == "array":
            assert about["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
            names = [codec["name"] for codec in about["codecs"]]
            assert set(names) <= {"bytes", "blosc", "vlen-utf8", "zstd"} and all(f"`{name}`" in PAGE for name in names)
            assert f"`{folder.name}`" in PAGE or f"/{folder.name}`" in PAGE, folder
    embedding = arrays[v1 / "arrays.zarr/embeddings" / KEY / "embedding"]
    assert embedding["shape"] == [12, 256, 64, 64] and embedding["fill_value"] == "NaN"
    assert embedding["chunk_grid"]["configuration"]["chunk_shape"] == [1, 256, 64, 64]
    assert embedding["codecs"][1]["configuration"]["shuffle"] == "bitshuffle"


def test_the_page_names_every_file_and_key(v1: Path) -> None:
    for path in v1.rglob("*.*"):
        if path.is_file() and "arrays.zarr" not in path.parts:
            name = re.sub(r"\d{4,}", "0001", path.name) if path.parent.name == "ingest" else path.name
            name = {".jsonl": "00000000.jsonl" if path.parent.name == KEY else name}.get(path.suffix, name)
            name = "<plan>.parquet" if path.parent.name == "plan" else name
            assert name in PAGE, path
    for path in v1.glob("runs/*/config.json"):
        config = json.loads(path.read_text())
        label = config["label"].replace(" ", "-")
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{config['kind']}-{label}-[0-9a-f]{{4}}", path.parent.name)
        assert all(f"`{key}`" in PAGE for key in config), path
    record = json.loads((v1 / "encoders" / KEY / "encoder.json").read_text())
    assert all(f"`{key}`" in PAGE for key in record)
    decoder = (v1 / "encoders" / KEY / "decoder.safetensors").read_bytes()
    assert record["decoder_sha256"] == hashlib.sha256(decoder).hexdigest()
    expected = digest(json.dumps({k: v for k, v in record.items() if k != "digest"}, sort_keys=True))
    assert record["digest"] == expected
    for weights in v1.rglob("*.safetensors"):
        with safe_open(weights, framework="np") as file:
            assert file.metadata() == {"architecture": "nano"}
            assert {name.split(".")[0] for name in file.keys()} == {"prompt_encoder", "mask_decoder"}


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools under NumPy 2
def test_versions_of_the_labels_are_what_the_page_says(v1: Path, tmp_path: Path) -> None:
    shutil.copytree(v1, tmp_path / "store")
    shutil.copytree(HERE / "v1-labels/labels", tmp_path / "store/labels")
    store, frame, before = Store.open(tmp_path / "store"), "01/t001", ""
    (row,) = (row for row in table(v1, "ingest/frames-0001.parquet") if row["frame"] == frame)
    raw = row_of(v1 / "arrays.zarr/frames" / row["group"] / "label", row["row"], 3)
    label = np.frombuffer(raw, "<i4").reshape(row["height"], row["width"]).copy()
    kinds = []
    for version in (1, 2, 3):
        head, _, body = (store.path / f"labels/0000000{version}.jsonl").read_bytes().partition(b"\n")
        total = hashlib.sha256(f"{before}:{version}:".encode() + body).hexdigest()
        assert json.loads(head) == {"format": 1, "version": version, "before": before, "sum": total}
        before = total
        for line in map(json.loads, body.splitlines()):
            assert all(f"`{name}`" in PAGE for name in (*line["event"], *line["change"]))
            kinds.append(line["event"]["kind"])
            for value, counts in line["change"]["patches"]:
                size = {"size": [row["height"], row["width"]], "counts": counts}
                label[coco.decode(size).astype(bool)] = value
            xxh3 = xxhash.xxh3_128(frame.encode() + label.tobytes()).hexdigest()
            assert xxh3 == line["change"]["sum"]
        assert np.array_equal(store.at_labels(version).pixels.label(frame), label)
    assert kinds == ["split", "erase", "undo"] and store.labels_version == 3
    assert store.sql("SELECT kind, who FROM label_events ORDER BY version").fetchall()[-1] == ("undo", "bob")
    assert verify(store).whole


def test_the_labels_of_variants_follow_the_version_and_no_embedding_is_lost(v1: Path, tmp_path: Path) -> None:
    shutil.copytree(v1, tmp_path / "store")
    shutil.copytree(HERE / "v1-labels/labels", tmp_path / "store/labels")
    store = Store.open(tmp_path / "store")
    (split,) = store.sql("SELECT cells FROM label_events WHERE kind = 'split'").fetchall()
    old, new = split[0]
    views = [store.at_labels(version).view("01/t001", tile, 1) for version in (0, 3) for tile in (0, 1)]
    was, now = (np.concatenate([view.label for view in views[i : i + 2]]) for i in (0, 2))
    assert not (was == new).any() and (now == new).any() and (now == old).any()
    elsewhere = ~np.isin(now, [old, new]) & ~np.isin(was, [old, new])
    assert np.array_equal(was[elsewhere], now[elsewhere])
    other = [store.at_labels(version).view("01/t000", 0, 1).label for version in (0, 3)]
    assert np.array_equal(other[0], other[1])
    assert len(store.committed()) == 12 and np.isfinite(store.embedding("01/t001", 1, 1)).all()
