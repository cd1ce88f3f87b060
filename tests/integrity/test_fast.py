"""`verify --fast` and `info` list no chunks, and find what the tables and a sample can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import RecipeError
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.store.ledger import Entry
from hela_store.store.store import Store
from hela_store.workflows.info import info
from stores import changed, forget

FAST = VerifyConfig(fast=True, seed=0)


def test_nothing_with_chunks_is_listed(store: Store, unlisted: list[str]) -> None:
    report = verify(Store.open(store.path), FAST)
    assert report.whole, report.faults
    assert (report.committed, report.left, report.sampled, report.seed) == (8, 0, 8, 0)
    found = info(Store.open(store.path))
    assert unlisted  # other folders are, so that a listing would have been seen
    with pytest.raises(AssertionError, match="is listed"):
        verify(Store.open(store.path))
    assert found.bytes["arrays.zarr"] > 8 * 1_000_000


def test_the_size_that_info_tells_is_that_of_the_chunks(store: Store) -> None:
    files = [path for path in (store.path / "arrays.zarr").rglob("c.*") if path.is_file()]
    assert info(store).bytes["arrays.zarr"] == sum(path.stat().st_size for path in files)


def test_what_is_left_is_counted_without_a_listing(store: Store, unlisted: list[str]) -> None:
    forget(store, 3, chunks_too=False)
    report = verify(Store.open(store.path), FAST)
    assert report.whole and (report.committed, report.left, report.unclaimed) == (5, 3, 0)


def test_damage_in_the_sample_is_told_as_by_the_whole_verification(store: Store) -> None:
    path = [store.arrays.chunk_path(store.key, row) for row in range(4)]
    first = path[0].read_bytes()
    path[0].write_bytes(path[1].read_bytes())
    path[1].unlink()
    path[2].write_bytes(first[:99])
    (store.path / "arrays.zarr/frames/01/label/c.3.0.0").unlink()
    found = {(fault.kind, fault.path) for fault in verify(Store.open(store.path), FAST).faults}
    whole = {(fault.kind, fault.path) for fault in verify(Store.open(store.path)).faults}
    # whose embedding it is only the comparison with all others tells
    assert {("flipped" if kind == "swapped" else kind, path) for kind, path in whole} == found and len(found) == 4


def test_the_ledger_is_compared_with_the_plan(store: Store) -> None:
    entries = {entry.row: entry for entry in store.ledger().entries().values()}
    store.ledger().commit([Entry(view=entries[3].view, row=4, sha256=entries[4].sha256)])
    faults = verify(Store.open(store.path), FAST).faults
    assert "stale" in {fault.kind for fault in faults if fault.view == entries[3].view}


@pytest.mark.parametrize("kind", ["plan", "segment", "description", "coordinate", "record"])
def test_a_damaged_file_is_named(store: Store, kind: str) -> None:
    folder = store.path / "arrays.zarr/embeddings" / store.key
    path = {
        "plan": store.plan_path(),
        "segment": store.ledger().path / "00000003.jsonl",
        "description": folder / "embedding/zarr.json",
        "coordinate": folder / "frame/c.0",
        "record": store.encoder_folder() / "encoder.json",
    }[kind]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    faults = verify(Store.open(store.path), FAST).faults
    assert {fault.path for fault in faults} >= {
        str((path.parent if kind == "coordinate" else path).relative_to(store.path))
    }


def test_a_lost_plan_is_noticed(store: Store) -> None:
    store.plan_path().unlink()
    (fault,) = verify(Store.open(store.path), FAST).faults
    assert fault.note == "it is not there, and 8 committed views are in no other plan"


def test_the_sample_follows_from_the_seed(store: Store) -> None:
    store.arrays.chunk_path(store.key, 5).unlink()
    found = [verify(store, VerifyConfig(fast=True, sample=2, seed=seed)).whole for seed in range(12)]
    assert found == [verify(store, VerifyConfig(fast=True, sample=2, seed=seed)).whole for seed in range(12)]
    assert True in found and False in found


def test_labels_of_variants_are_in_the_sample(store: Store) -> None:
    augment = replace(store.recipe.augment, variants=1, frames="all")
    varied = changed(store, augment=augment)
    embed(varied, EmbedConfig(limit=2))
    assert verify(varied, FAST).whole
    (lost, *_) = sorted((store.path / "arrays.zarr/views/192x256/label").glob("c.*"))
    lost.unlink()
    faults = verify(changed(store, augment=augment), FAST).faults
    assert [fault.path for fault in faults] == ["arrays.zarr/views/192x256"]


@pytest.mark.parametrize("more", [{"deep": True}, {"repair": True}])
def test_it_neither_repairs_nor_encodes(more: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="leave --fast out"):
        VerifyConfig(fast=True, **more)
