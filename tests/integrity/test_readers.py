"""Whoever reads what is damaged says so: no score, no weights and no mask comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load

from hela_store.base.files import write_atomic
from hela_store.base.tensors import safetensors_bytes
from hela_store.detection.config import DetectorConfig
from hela_store.detection.train import train_detector
from hela_store.embedding.plan import make_plan
from hela_store.errors import HelaError, RunError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.runs.folder import load_run
from hela_store.runs.info import MANIFEST
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from stores import reseal

TINY = FinetuneConfig.of(steps=4, cells=2, validation_cells=2, workers=0, window=8)
QUICK = EvaluateConfig(split="test", prompts=("box",), prompt_seeds=1, window=8)
FRAMES = {"train": "01/t001", "test": "01/t007"}
Damage = Callable[[Store, str], None]
NAMED = r"the embedding of view [0-9a-f]{24}: .*/c\.\d\.0\.0\.0 .*`hela-store verify --repair`"


def row_of(store: Store, frame: str) -> int:
    views = dict(zip(*(store.views_table()[name].to_pylist() for name in ("frame", "view")), strict=True))
    return store.committed()[views[frame]]


def lose(store: Store, frame: str) -> None:
    store.arrays.chunk_path(store.key, row_of(store, frame)).unlink()


def swap(store: Store, frame: str) -> None:
    paths = [store.arrays.chunk_path(store.key, row_of(store, each)) for each in (frame, "01/t003")]
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def flip(store: Store, frame: str) -> None:
    """Change one bit of one value: the chunk decodes without an error."""
    row = row_of(store, frame)
    values = store.arrays.embedding(store.key, row)
    values[100, 30, 30] = np.nextafter(values[100, 30, 30], np.float16(1))
    store.arrays.write_embedding(store.key, row, values.astype(np.float32))


def cut(store: Store, frame: str) -> None:
    path = store.arrays.chunk_path(store.key, row_of(store, frame))
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES = (swap, *(pytest.param(damage, marks=pytest.mark.slow) for damage in (lose, flip, cut)))
"""Another view's embedding, whole and decodable, is the hardest to notice."""


def tune(store: Store) -> object:
    return finetune(store, TINY)


def tune_with_a_loader_process(store: Store) -> object:
    return finetune(store, TINY.with_choices(workers=1))


def train_a_detector(store: Store) -> object:
    return train_detector(store, DetectorConfig(steps=4, batch=1, workers=1, device="cpu"))


READERS: dict[str, list[Callable[[Store], object]]] = {
    "test": [
        lambda store: evaluate(store, None, QUICK),
        lambda store: store.embedding("01/t007"),
        lambda store: store.xarray().embedding.compute(),
    ],
    "train": [tune, tune_with_a_loader_process, train_a_detector],
}


@pytest.mark.ci
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_embedding_is_named_by_whoever_reads_it(store: Store, damage: Damage) -> None:
    for block, readers in READERS.items():
        damage(store, FRAMES[block])
        for read in readers:
            with pytest.raises(StoreError, match=NAMED) as caught:
                read(Store.open(store.path))
            assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
    assert not list((store.path / "runs").glob("2*"))
    assert verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu")).whole
    assert evaluate(Store.open(store.path), None, QUICK).run


@pytest.mark.parametrize("part", ["image", "label", "valid"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_frame_is_named_by_whoever_reads_it(store: Store, part: str, lost: bool) -> None:
    record = store.frame_records()["01/t007"]
    chunk = f"frames/{record.group}/{part}/c.{record.row}.0.0"
    if lost:
        store.arrays.storage.remove(chunk)
    else:
        # another frame's: of the same size, and decodable
        other = store.arrays.storage.read(f"frames/{record.group}/{part}/c.0.0.0")
        if part == "valid":  # the same in all frames
            values = ~store.pixels.valid("01/t007")
            store.arrays.write_frame(record.group, record.row, store.pixels.image("01/t007"), None, values)
        else:
            assert other is not None
            write_atomic(Path(store.arrays.storage.root) / chunk, other)
    readers: list[Callable[[Store], object]] = [
        lambda store: getattr(store.pixels, part)("01/t007"),
        lambda store: store.view("01/t007"),
        lambda store: getattr(store.frames("01"), part).compute(),
    ]
    if part == "label":
        readers.append(lambda store: evaluate(store, None, QUICK))
    for read in readers:
        with pytest.raises(StoreError, match=rf"the {part} of frame 01/t007.*; `hela-store verify --repair`"):
            read(Store.open(store.path))
    found = verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu"))
    assert [fault.frame for fault in found.repaired] == ["01/t007"] and found.whole


def tables(store: Store) -> tuple[pa.Table, ...]:
    fresh = Store.open(store.path)
    return fresh.cells_table(), fresh.views_table()


def test_tables_that_changed_are_refused(store: Store) -> None:
    make_plan(store)
    for path in sorted([*store.path.glob("ingest/*.parquet"), *store.path.glob("plan/*.parquet")]):
        whole = path.read_bytes()
        # the last byte of the footer's length, and one bit of the file's name of its creator: neither page has a sum
        for place in (len(whole) - 40, len(whole) // 2):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(StoreError, match=rf"{path.name} is damaged: it changed since it was written"):
                tables(store)
        path.write_bytes(whole)
    sums = store.path / "sums.json"
    text = sums.read_text()
    sums.write_text(text.replace('"ingest/cells', '"ingest/bells'))
    with pytest.raises(StoreError, match=r"sums.json is damaged"):
        Store.open(store.path).frames_table()
    sums.unlink()
    found = verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu"))
    assert [fault.path for fault in found.repaired] == ["sums.json"] and found.whole
    assert sums.read_text() == text


@pytest.mark.ci
def test_a_run_whose_files_changed_is_refused_by_whoever_reads_them(store: Store) -> None:
    run = finetune(store, TINY).run
    scored = evaluate(store, run, QUICK).run
    folder = store.path / "runs" / run
    readers: dict[str, Callable[[], object]] = {
        "weights.safetensors": lambda: evaluate(store, run, QUICK),
        "config.json": lambda: load_run(store.path, run),
        "log.jsonl": lambda: load_run(store.path, run).result(),
    }
    for name, read in readers.items():
        whole = (folder / name).read_bytes()
        changed = bytearray(whole)
        changed[-3] ^= 1  # in the last value, which any parser takes
        (folder / name).write_bytes(changed)
        with pytest.raises(RunError, match=rf"run {run} is damaged: .*{name} "):
            read()
        assert [fault.path for fault in verify(store).faults] == [f"runs/{run}/{name}"]
        (folder / name).write_bytes(whole)
    # weights that are whole, and another run's
    whole = (folder / "weights.safetensors").read_bytes()
    other = {name: value + 1 for name, value in load(whole).items()}
    (folder / "weights.safetensors").write_bytes(safetensors_bytes(other, {"architecture": "nano"}))
    with pytest.raises(RunError, match="changed since it was published"):
        evaluate(store, run, QUICK)
    (folder / "weights.safetensors").write_bytes(whole)
    (store.path / "runs" / scored / ".state.safetensors.x1").write_bytes(b"left behind")
    assert ["is not of this run" in fault.note for fault in verify(store).faults] == [True]
    (store.path / "runs" / scored / ".state.safetensors.x1").unlink()
    (folder / MANIFEST).unlink()
    with pytest.raises(RunError, match=r"manifest.json is missing"):
        load_run(store.path, run)
    with pytest.raises(HelaError, match=r"manifest.json is missing"):
        evaluate(store, run, QUICK)


@pytest.mark.ci
def test_equal_tensors_are_equal_files_in_every_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; from hela_store.base.tensors import safetensors_bytes as b\n"
        "sys.stdout.buffer.write(b({'b': torch.ones(3), 'a': torch.zeros(2, 2)}, {k: k * 3 for k in 'zyxwvutabc'}))"
    )
    made = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(made) == 1
    assert load(made.pop())["b"].tolist() == [1, 1, 1]


def test_a_run_that_was_made_again_is_not_the_one_that_was_indexed(store: Store) -> None:
    run = evaluate(store, None, QUICK).run
    before = store.sql("SELECT avg(iou) FROM cell_metrics").fetchall()
    folder = store.path / "runs" / run
    manifest = (folder / MANIFEST).read_bytes()
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config.replace(b'"split": "test"', b'"split": "val"', 1))
    reseal(folder)
    with pytest.raises(RunError, match=rf"run {run} is not the one that was indexed: its manifest.json changed"):
        store.sql("SELECT avg(iou) FROM cell_metrics")
    (folder / MANIFEST).write_bytes(manifest)
    (folder / "config.json").write_bytes(config)
    assert store.sql("SELECT avg(iou) FROM cell_metrics").fetchall() == before


@pytest.mark.parametrize("lost", ["ingest/cells-*.parquet", "plan/*.parquet"])
def test_sql_misses_no_table_in_silence(store: Store, lost: str) -> None:
    store.sql("SELECT 1")
    (path,) = store.path.glob(lost)
    path.unlink()
    with pytest.raises(StoreError, match=rf"{path.name} is not there, though it was written"):
        Store.open(store.path).sql("SELECT count(*) FROM cells")
    if lost.startswith("plan"):
        assert verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu")).whole
        assert Store.open(store.path).sql("SELECT count(*) FROM cells").fetchall() != [(0,)]


def test_what_changed_is_never_sealed_as_right(store: Store) -> None:
    """The tables that a store has read are in memory; a file may change on the disk meanwhile."""
    store.cells_table()
    (path,) = store.path.glob("ingest/cells-*.parquet")
    before = (store.path / "sums.json").read_bytes()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    store.seal()
    assert (store.path / "sums.json").read_bytes() == before
    with pytest.raises(StoreError, match="it changed since it was written"):
        Store.open(store.path).cells_table()
