"""Finding and repairing, with the store's own encoder; the other kinds of damage are in test_crashes.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hela_store.base.locks import embed_lock
from hela_store.base.rng import generator
from hela_store.embedding.plan import make_plan
from hela_store.errors import RunError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.integrity.verify import VerifyConfig, tolerance, verify
from hela_store.store.arrays import EMBEDDING_SHAPE, Arrays
from hela_store.store.ledger import Entry, view_digest
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from stores import forget

TINY = FinetuneConfig.of(steps=1, cells=2, validation_cells=2, workers=0, window=8)


def test_a_whole_store_is_whole(embedded: Path) -> None:
    report = verify(Store.open(embedded))
    assert report.whole and (report.committed, report.left) == (8, 0)


def test_swapped_missing_and_stale_are_told_apart(store: Store) -> None:
    path = [store.arrays.chunk_path(store.key, row) for row in range(5)]
    first = path[0].read_bytes()
    path[0].write_bytes(path[1].read_bytes())
    path[1].write_bytes(first)
    path[2].unlink()
    entries = {entry.row: entry for entry in store.ledger().entries().values()}
    store.ledger().commit([Entry(view=entries[3].view, row=3, sha256="0" * 64)])
    path[4].write_bytes(path[4].read_bytes()[:99])
    report = verify(store)
    assert {fault.row: fault.kind for fault in report.faults} == {
        0: "swapped",
        1: "swapped",
        2: "missing",
        3: "stale",
        4: "truncated",
    }
    with embed_lock(store.path), pytest.raises(StoreError, match="is being embedded by"):
        verify(store, VerifyConfig(repair=True))


def check_changes(store: Store, changes: list[tuple[Path, Callable[[bytes], bytes] | None]]) -> None:
    """Change or take away one file after the other; each is found by its name, and stays as it is."""
    assert verify(store).whole
    for path, change in changes:
        whole = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(whole))
        report = verify(store, VerifyConfig(repair=True, device="cpu"))
        assert [fault.path for fault in report.faults] == [str(path.relative_to(store.path))]
        assert report.encoded == 0 and not report.repaired and "runs/" in report.faults[0].note
        path.write_bytes(whole)


@pytest.mark.ci
def test_a_run_that_is_cut_or_lost_is_found_and_left_alone(store: Store) -> None:
    tuned = finetune(store, TINY)
    scored = evaluate(store, None, EvaluateConfig(split="val", prompts=("box",), prompt_seeds=1, window=8))
    runs = store.path / "runs"
    weights = runs / tuned.run / "weights.safetensors"
    changes: list[tuple[Path, Callable[[bytes], bytes] | None]] = [
        (weights, lambda data: data[:-5]),
        (weights, lambda data: b""),
        (weights, None),
        (runs / tuned.run / "config.json", lambda data: b"{" + data),
        (runs / tuned.run / "log.jsonl", lambda data: b""),
        (runs / scored.run / "config.json", None),
        (runs / scored.run / "prompts.parquet", None),
        (runs / scored.run / "predictions.parquet", lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:]),
    ]
    check_changes(store, changes)
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(RunError, match=r"weights.safetensors changed since it was published; restore it"):
        evaluate(store, tuned.run, EvaluateConfig(split="val"))


# in short: the test above
@pytest.mark.slow
def test_weights_of_an_adapted_encoder_that_are_lost_are_found(store: Store) -> None:
    low_rank = finetune(store, TINY.with_choices(adapt="decoder"))
    whole_encoder = finetune(store, TINY.with_choices(adapt="encoder-full", cut=0))
    runs = store.path / "runs"
    names = ("adapter.safetensors", "weights.safetensors")
    check_changes(
        store, [(runs / low_rank.run / names[0], None), *((runs / whole_encoder.run / n, None) for n in names)]
    )


@pytest.mark.ci
def test_deep_finds_what_the_ledger_believes_and_repair_puts_it_right(store: Store) -> None:
    view, row = next(iter(store.committed().items()))
    before = store.arrays.embedding(store.key, row)
    wrong = store.arrays.write_embedding(store.key, row, np.float32(1.02) * before.astype(np.float32))
    store.ledger().commit([Entry(view=view, row=row, sha256=view_digest(view, wrong))])
    assert verify(store).whole
    report = verify(store, VerifyConfig(deep=True, repair=True))
    assert report.whole and report.encoded == 1
    assert [fault.kind for fault in report.repaired] == ["differs"]
    assert report.worst is not None and report.worst <= tolerance(store.recipe)
    assert np.array_equal(store.arrays.embedding(store.key, row), before)


def test_raw_chunks_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    arrays = Arrays(tmp_path / "arrays.zarr")
    arrays.create_embeddings("k", 2, "float16", "raw")
    arrays.write_embedding("k", 1, generator("raw").normal(size=EMBEDDING_SHAPE).astype(np.float32))
    assert np.array_equal(arrays.embedding("k", 1), arrays.embedding_array("k")[1])
    with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0 is not there"):
        arrays.embedding("k", 0)
    path = arrays.chunk_path("k", 1)
    path.write_bytes(path.read_bytes()[:-2])
    assert arrays.is_cut_short("k", 1)
    with pytest.raises(StoreError, match="too short"):
        arrays.embedding("k", 1)


def test_a_lost_plan_is_made_again_and_costs_no_embedding(store: Store) -> None:
    plan, entries = store.views_table(), store.ledger().entries()
    recipe = replace(store.recipe, views=replace(store.recipe.views, tile=128))
    make_plan(Store(store.path, recipe))
    store.plan_path().unlink()
    # with another recipe its embeddings are left alone, they are in a plan again when this one comes back
    verify(Store(store.path, recipe), VerifyConfig(repair=True, device="cpu"))
    after = Store.open(store.path)
    assert after.ledger().entries().items() >= entries.items()
    after.plan_path().unlink(missing_ok=True)
    report = verify(Store.open(store.path))
    assert [fault.note for fault in report.faults] == ["it is not there, and 8 committed views are in no other plan"]
    report = verify(Store.open(store.path), VerifyConfig(repair=True))
    assert report.whole and report.encoded == 0 and Store.open(store.path).views_table().equals(plan)


@pytest.mark.ci
def test_the_last_segment_of_the_ledger_is_missed(store: Store) -> None:
    """No number is missing then; the chunks without an entry tell."""
    forget(store, 2, chunks_too=False)
    report = verify(Store.open(store.path))
    assert (report.committed, report.left, report.unclaimed) == (6, 2, 2) and report.whole
    with pytest.raises(StoreError, match="not embedded yet"):
        evaluate(Store.open(store.path), None, EvaluateConfig(split="test", prompts=("box",), window=8))
    middle = sorted(store.ledger().path.iterdir())[2]
    middle.unlink()
    with pytest.raises(StoreError, match=rf"{middle.name} is lost, later ones are there"):
        Store.open(store.path).committed()
    report = verify(Store.open(store.path), VerifyConfig(repair=True, device="cpu"))
    assert report.whole and (report.committed, report.left, report.encoded) == (8, 0, 3)
