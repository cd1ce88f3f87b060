import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hela_store.base.locks import embed_lock
from hela_store.embedding.batches import done_of, unique_views
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.record import EncoderRecord, read_record, write_record
from hela_store.errors import CheckpointError, RecipeError, SplitError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.sam.decoder import load_decoder
from hela_store.store.ledger import Entry, Ledger
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from stores import changed, chunks, forget


def recorded(store: Store) -> EncoderRecord:
    record = read_record(store)
    assert record is not None
    return record


def anew(store: Store, path: Path) -> Store:
    """Return a store of the same recipe and frames, with nothing embedded."""
    path.mkdir()
    shutil.copy(store.path / "store.toml", path)
    shutil.copytree(store.path / "data", path / "data")
    return Store.open(path)


def tree(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_mtime_ns for p in path.rglob("*")}


def test_running_it_again_does_nothing(store: Store):
    before = chunks(store)
    ledger = tree(store.ledger().path)
    report = embed(store)
    assert (report.planned, report.done_before, report.done_now, report.left) == (8, 8, 0, 0)
    assert report.key == store.key
    assert chunks(store) == before
    assert tree(store.ledger().path) == ledger


def test_a_resumed_job_gives_the_bytes_of_an_uninterrupted_one(store: Store):
    before, entries = chunks(store), store.ledger().entries()
    forget(store, 1)
    (row,) = forget(store, 1, chunks_too=False)  # killed between chunk and ledger, and the chunk is wrong
    path = store.arrays.chunk_path(store.key, row)
    path.write_bytes(before[f"c.{row - 1}.0.0.0"])
    leftover = path.with_name(f"c.{row}.0.0.0123.partial")
    leftover.write_bytes(b"half")
    (store.path / ".embed.holder.json").write_text("{}")  # a killed process leaves its note
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if recorded(store).threads > 1 else 2)
    other = torch.get_num_threads()
    try:
        report = embed(store)
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(threads)
    assert (report.done_before, report.done_now, report.left) == (6, 2, 0)
    assert chunks(store) == before
    assert store.ledger().entries() == entries
    assert not leftover.exists()


def test_what_is_added_is_embedded_without_a_listing(store: Store, unlisted: list[str]):
    forget(store, 1)
    assert embed(store).done_now == 1 and unlisted


def test_the_last_entry_of_a_view_decides_whether_it_is_done(store: Store):
    views = unique_views(store.views_table())
    rng = np.random.default_rng(0)
    ids = [*views["view"].to_pylist(), "in no plan"]
    for case in range(200):
        ledger = Ledger(store.path / "other" / str(case))
        for _ in range(rng.integers(1, 4)):
            entries = rng.integers([len(ids), 9], size=(rng.integers(1, 7), 2)).tolist()
            # most in their own row
            rows = [index if rng.random() < 0.6 else row for index, row in entries]
            ledger.commit(Entry(view=ids[i], row=row, sha256="") for (i, _), row in zip(entries, rows, strict=True))
        store._ledgers[store.key] = ledger
        last = {view: entry.row for view, entry in ledger.entries().items()}
        wanted = zip(ids, views["row"].to_pylist(), strict=False)
        assert done_of(store, views).tolist() == [last.get(view) == row for view, row in wanted], last


def test_ctrl_c_stops_cleanly_and_the_next_one_goes_on(store: Store):
    before = chunks(store)
    forget(store, 2)

    def press_after_one(iterable, *, total, what):
        for item in iterable:
            yield item
            if what == "embed":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        embed(store, progress=press_after_one)
    with embed_lock(store.path):
        assert not list(store.path.rglob("*.partial"))
    assert len(store.committed()) == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert embed(store).done_now == 1
    assert chunks(store) == before


def test_the_plan_is_durable_before_the_first_encode(store: Store):
    tiled = changed(store, views=replace(store.recipe.views, tile=128, overlap=32))

    def stop(iterable, *, total, what):
        if what == "embed":
            raise RuntimeError("about to encode")
        return iter(iterable)

    with pytest.raises(RuntimeError, match="about to encode"):
        embed(tiled, progress=stop)
    assert tiled.plan_path().exists()
    assert len(tiled.views_table()) == 8 * 6
    assert len(tiled.committed()) == 8  # the whole frames of before, under the same key
    assert tiled.arrays.embedding_array(tiled.key).shape[0] == 8 + 8 * 6
    with pytest.raises(StoreError, match=r"row 8 .* is not committed"):
        tiled.embedding_at(8)


def test_another_key_is_another_array_and_the_old_one_stays(store: Store):
    before = chunks(store)
    other = changed(store, normalise=replace(store.recipe.normalise, method="minmax"))
    assert other.key != store.key
    report = embed(other, EmbedConfig(limit=1))
    assert (report.planned, report.done_before, report.done_now, report.left) == (8, 0, 1, 7)
    assert chunks(store) == before
    assert len(store.xarray().view) == 8
    assert list(other.xarray().view.values) == list(other.committed())
    assert other.arrays.embedding_keys() == sorted([store.key, other.key])
    frame = store.frames_table()["frame"][0].as_py()
    assert not np.array_equal(store.embedding(frame), other.embedding(frame))


# in short: test_a_block_with_the_pixels_of_another
@pytest.mark.slow
def test_some_blocks_first(store: Store, tmp_path: Path):
    part = anew(store, tmp_path / "part")
    some = EmbedConfig(splits=("val", "test"), batch=4)
    dry = embed(part, replace(some, dry_run=True))
    assert (dry.planned, dry.left) == (2, 2) and not (part.path / "ingest").exists()
    report = embed(part, some)
    assert (report.planned, report.done_before, report.done_now, report.left) == (2, 0, 2, 0)
    frames = {row["view"]: row["frame"] for row in part.views_table().to_pylist()}
    assert {frames[view] for view in part.committed()} == {"01/t005", "01/t007"}
    assert evaluate(part, None, EvaluateConfig(split="test", prompts=("box",), prompt_seeds=1)).prompts["box"].n > 0
    dry = embed(part, replace(some, splits=("train", "test"), dry_run=True))
    assert (dry.planned, dry.done_before, dry.left) == (5, 1, 4)
    with pytest.raises(SplitError, match=r"no embedded view.*run `hela-store embed`"):
        finetune(part, FinetuneConfig.of(steps=1))
    report = embed(part)
    assert (report.planned, report.done_before, report.done_now, report.left) == (8, 2, 6, 0)
    whole = anew(store, tmp_path / "whole")
    embed(whole, EmbedConfig(batch=4))
    assert chunks(part) == chunks(whole)


@pytest.mark.ci
def test_a_block_with_the_pixels_of_another(store: Store, tmp_path: Path):
    part = anew(store, tmp_path / "part")
    for folder in ("01", "01_ST/SEG"):
        name = "t00{}.tif" if folder == "01" else "man_seg00{}.tif"
        shutil.copy(part.path / "data" / folder / name.format(6), part.path / "data" / folder / name.format(7))
    test = EmbedConfig(splits=("test",))
    report = embed(part, test)
    assert (report.planned, report.done_now, report.left) == (1, 1, 0)
    assert embed(part, replace(test, dry_run=True)).left == 0
    assert evaluate(part, None, EvaluateConfig(prompts=("box",), prompt_seeds=1)).prompts["box"].n > 0
    report = embed(part)
    assert (report.planned, report.done_before, report.left) == (7, 1, 0)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_block_without_frames(store: Store, tmp_path: Path, dry_run: bool):
    part = anew(store, tmp_path / "part")
    few = changed(part, split=replace(store.recipe.split, test=""))
    with pytest.raises(SplitError, match="split 'test' holds no frame"):
        embed(few, EmbedConfig(splits=("test",), dry_run=dry_run))
    assert not (part.path / "ledger").exists()


@pytest.mark.parametrize("splits", ["test", ("all",), ("val", "gap")])
def test_a_block_nobody_knows(splits: tuple[str, ...]):
    with pytest.raises(RecipeError, match="expected some of train, val, test"):
        EmbedConfig(splits=splits)


def test_a_dry_run_writes_nothing(store: Store, tmp_path):
    forget(store, 3)
    before = tree(store.path)
    report = embed(store, EmbedConfig(dry_run=True))
    assert (report.planned, report.done_before, report.done_now, report.left) == (8, 5, 0, 3)
    assert report.seconds is not None and report.seconds > 0
    assert 3e5 < report.bytes_left / 3 < 2.1e6
    assert tree(store.path) == before
    fresh = anew(store, tmp_path / "fresh")
    report = embed(fresh, EmbedConfig(dry_run=True))
    assert (report.planned, report.done_before, report.left, report.seconds) == (8, 0, 8, None)
    assert report.bytes_left == 8 * 2 * 2**20
    assert not (fresh.path / "ingest").exists()


def test_other_weights_under_the_same_key_are_refused(store: Store):
    forget(store, 1)
    before = tree(store.ledger().path)
    path = store.encoder_folder() / "encoder.json"
    write_record(store, replace(recorded(store), sha256="f" * 64))
    with pytest.raises(StoreError, match="were made with weights ffffffffffff"):
        embed(store)
    pinned = changed(store, encoder=replace(store.recipe.encoder, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="the store was made with 000000000000"):
        embed(pinned)
    path.write_text("{")
    with pytest.raises(StoreError, match=r"encoder.json is damaged"):
        embed(store)
    assert tree(store.ledger().path) == before
    assert not pinned.encoder_folder().exists()


def test_the_decoder_is_written_and_written_again_when_it_is_damaged(store: Store):
    path = store.encoder_folder() / "decoder.safetensors"
    before = path.read_bytes()
    load_decoder(path)
    path.write_bytes(before[:1000])
    embed(store)
    assert path.read_bytes() == before


def test_the_record_says_under_which_conditions(embedded: Path):
    store = Store.open(embedded)
    record = recorded(store)
    assert record.architecture == "nano"
    assert record.torch == torch.__version__
    assert record.threads >= 1
    assert record.seconds_per_view is not None and record.seconds_per_view > 0
    if record.device == "cpu":
        assert record.batch == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="holds for the CPU")
def test_another_batch_or_compilation_on_the_cpu_is_refused(store: Store):
    forget(store, 1)
    with pytest.raises(StoreError, match="batches of 1"):
        embed(store, EmbedConfig(batch=2))
    with pytest.raises(StoreError, match=r"made without torch.compile"):
        embed(store, EmbedConfig(compile=True))


def test_a_second_embed_is_refused(store: Store):
    with embed_lock(store.path):
        with pytest.raises(StoreError, match=f"is being embedded by process {os.getpid()}"):
            embed(store)


@pytest.mark.parametrize("config", [{"limit": 0}, {"batch": -1}])
def test_impossible_configurations(config):
    with pytest.raises(RecipeError, match="expected at least 1"):
        EmbedConfig(**config)


def test_unknown_device_precision_and_codec(store: Store):
    forget(store, 1)
    with pytest.raises(RecipeError, match="device is 'tpu'"):
        embed(store, EmbedConfig(device="tpu"))
    with pytest.raises(RecipeError, match="precision"):
        embed(store, EmbedConfig(precision="float8"))
    with pytest.raises(RecipeError, match=r"arrays.codec"):
        embed(changed(store, arrays=replace(store.recipe.arrays, codec="gzip")))


def test_no_space_left(store: Store, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        forget(store, 2)
        shutil.copytree(store.path, small / "store")
        with (small / "ballast").open("wb") as ballast:
            ballast.write(bytes(max(0, shutil.disk_usage(small).free - 600_000)))
        full = Store.open(small / "store")
        with pytest.raises(StoreError, match="no space left while writing"):
            embed(full)
        assert len(full.committed()) == 6
        assert not list(full.path.rglob("*.partial"))
        (small / "ballast").unlink()
        assert embed(full).left == 0
    finally:
        subprocess.run(["umount", "-l", small], check=True)
