"""What a GPU is given before the last batch is written, tried on a CPU: the order and the bytes stay."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from hela_store.embedding import pipeline
from hela_store.embedding.batches import Work, unique_views, work_of
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.embedding.pipeline import Pipeline
from hela_store.errors import StoreError
from hela_store.sam.checkpoints import LoadedSam, load_sam_encoder
from hela_store.store.ledger import Entry
from hela_store.store.store import Store
from stores import chunks


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a GPU is treated, on a machine with two writers."""
    monkeypatch.setattr(pipeline, "AHEAD", ("cpu",))
    monkeypatch.setattr(pipeline, "WRITERS", 2)


@pytest.fixture
def sam(store: Store) -> LoadedSam:
    """Return a SAM with an encoder of its own classes that costs next to nothing."""
    torch.manual_seed(0)
    sizes = {"img_size": 1024, "embed_dim": 16, "depth": 1, "num_heads": 2, "out_chans": 256}
    encoder = ImageEncoderViT(**sizes, use_rel_pos=True, window_size=8).eval().requires_grad_(False)
    return replace(load_sam_encoder(store.recipe.encoder, "cpu"), encoder=encoder)


def all_of(store: Store, batch: int) -> Work:
    views = unique_views(store.views_table())
    return work_of(views, views["row"].to_numpy() < 0, batch, None)


def segments(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.rglob("*.jsonl"))]


def anew(store: Store, path: Path) -> Store:
    """Return a store of the same recipe and frames with a variant of each, and nothing embedded."""
    path.mkdir()
    (path / "store.toml").write_text((store.path / "store.toml").read_text().replace("variants = 0", "variants = 1"))
    shutil.copytree(store.path / "data", path / "data")
    return Store.open(path)


@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_ahead_leave_the_same_bytes_in_the_same_order(
    store: Store, tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    made = []
    for ahead in (("cpu",), ()):
        monkeypatch.setattr(pipeline, "AHEAD", ahead)
        one = anew(store, tmp_path / f"ahead {ahead}")
        assert embed(one, EmbedConfig(batch=batch, limit=4)).done_now == 4
        made.append((chunks(one), segments(one.path / "ledger"), segments(one.path / "truths")))
    assert made[0] == made[1]
    assert len(made[0][0]) == 4 and len(made[0][1]) == -(-4 // batch)


def test_so_many_batches_are_under_way_and_no_more(store: Store, sam: LoadedSam, fast: None) -> None:
    encoded, committed, go_on = [0], list[str](), threading.Event()
    enough = threading.Event()

    def count(*_: object) -> None:
        encoded[0] += 1
        if encoded[0] == 5:
            enough.set()

    def commit(entries: Iterable[Entry], _: Iterable[Entry]) -> None:
        assert go_on.wait(60)
        committed.extend(entry.view for entry in entries)

    sam.encoder.patch_embed.register_forward_pre_hook(count)
    work, done = all_of(store, 1), list[str]()
    thread = threading.Thread(target=lambda: done.extend(Pipeline(store, sam).run(work, commit)))
    thread.start()
    try:
        # three are being written: one more than there are writers; one waits for that, and one was encoded after it
        assert enough.wait(60)
        thread.join(1)
        assert (encoded[0], committed, done) == (5, [], [])
    finally:
        go_on.set()
        thread.join()
    assert done == committed == work.ids and encoded[0] == 8


def test_a_cpu_is_one_batch_ahead_of_what_is_written(store: Store, sam: LoadedSam) -> None:
    commits = list[int]()
    encoded = [0]

    def count(*_: object) -> None:
        encoded[0] += 1

    sam.encoder.patch_embed.register_forward_pre_hook(count)
    run = Pipeline(store, sam).run(all_of(store, 1), lambda entries, _: commits.append(len(list(entries))))
    for number, _ in enumerate(run, 1):
        assert number <= len(commits) <= number + 1 and encoded[0] <= number + 1


def test_nothing_is_committed_after_a_batch_that_could_not_be(store: Store, sam: LoadedSam, fast: None) -> None:
    tried = list[int]()

    def commit(entries: Iterable[Entry], _: Iterable[Entry]) -> None:
        tried.append(len(list(entries)))
        if len(tried) == 2:
            raise StoreError("no space left")

    done = list[str]()
    with pytest.raises(StoreError, match="no space left"):
        done.extend(Pipeline(store, sam).run(all_of(store, 1), commit))
    assert tried == [1, 1]
