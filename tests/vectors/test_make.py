"""Cells as vectors: pooled in their masks, kept, and asked for in SQL."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

import hela_store as hs
from hela_store.catalog.index import rebuild
from hela_store.errors import RunError, SplitError, StoreError
from hela_store.images.geometry import view_scale
from hela_store.runs.folder import run_ids
from hela_store.store.ledger import Entry
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


@pytest.fixture(scope="module")
def made(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scored store with vectors, and with mask tokens of its fine-tuning. Not to be changed."""
    path = tmp_path_factory.mktemp("vectors") / "store"
    shutil.copytree(scored, path)
    store = hs.Store.open(path)
    store.cell_vectors()
    store.cell_vectors(finetuning(path))
    return path


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def finetuning(path: Path) -> str:
    return next(run for run in run_ids(path) if "-finetune-" in run)


def by_hand(store: hs.Store, cell: str) -> np.ndarray:
    """Pool a cell of an untiled frame pixel by pixel."""
    frame, _, label = cell.rpartition("#")
    embedding, labels = store.embedding(frame).astype(np.float64), store.labels(frame)
    scale = view_scale((0, 0, labels.shape[1], labels.shape[0])) / 16
    rows, columns = np.nonzero(labels == int(label))
    return embedding[:, ((rows + 0.5) * scale).astype(int), ((columns + 0.5) * scale).astype(int)].mean(1)


def test_a_vector_is_the_mean_of_the_embedding_in_the_mask_of_its_cell(made: Path) -> None:
    store = hs.Store.open(made)
    found = store.cell_vectors()
    assert found.vectors.dtype == np.float32 and found.vectors.shape == (store.cell_count(), 256)
    assert found.cells == store.cells_table()["cell"].to_pylist() and found.tokens is None
    for number in range(0, len(found.cells), 7):
        assert np.allclose(found.vectors[number], by_hand(store, found.cells[number]), atol=1e-5)


def test_vectors_are_made_once_and_a_split_is_part_of_them(made: Path) -> None:
    store, runs = hs.Store.open(made), run_ids(made)
    whole, part = store.cell_vectors(), store.cell_vectors(split="test")
    assert run_ids(made) == runs and set(whole.runs) <= set(runs)
    assert np.array_equal(part.vectors, whole.vectors[[whole.cells.index(cell) for cell in part.cells]])
    test = {frame for frame, block in store.blocks().items() if block == "test"}
    assert {cell.rpartition("#")[0] for cell in part.cells} == test


def test_the_catalog_has_them_for_functions_of_arrays_and_makes_them_again_alike(made: Path) -> None:
    store = hs.Store.open(made)
    found = store.cell_vectors()
    asked = (
        "SELECT b.cell, array_cosine_similarity(a.vector, b.vector) AS s FROM cell_vectors a, cell_vectors b "
        f"WHERE a.cell = '{found.cells[0]}' AND a.checkpoint IS NULL AND b.checkpoint IS NULL ORDER BY s DESC, b.cell"
    )
    before = store.sql(asked).fetchall()
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    assert dict(before) == pytest.approx(dict(zip(found.cells, (unit @ unit[0]).tolist(), strict=True)), abs=1e-5)
    every = store.sql("FROM cell_vectors ORDER BY ALL").fetchall()
    rebuild(made)
    assert store.sql(asked).fetchall() == before and store.sql("FROM cell_vectors ORDER BY ALL").fetchall() == every


def test_tokens_are_what_the_decoder_draws_its_mask_from(made: Path) -> None:
    store, run = hs.Store.open(made), finetuning(made)
    found = store.cell_vectors(run)
    assert found.tokens is not None and found.tokens.shape == found.vectors.shape
    assert np.array_equal(found.vectors, store.cell_vectors().vectors)
    other = store.cell_vectors("zero-shot", split="test").tokens
    assert other is not None and not np.array_equal(found.tokens, other)
    kept = store.sql(f"SELECT token FROM cell_vectors WHERE checkpoint = '{run}' ORDER BY cell").fetchall()
    assert np.allclose(sorted(map(list, found.tokens.tolist())), sorted(list(row[0]) for row in kept))


def test_an_embedding_that_was_encoded_again_gets_new_vectors(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "store")
    store = hs.Store.open(tmp_path / "store")
    before = store.cell_vectors()
    frame = before.cells[0].rpartition("#")[0]
    view = store.view(frame).view
    row = store.committed()[view]
    stored = store.arrays.write_embedding(store.key, row, store.embedding_at(row) * 2)
    store.ledger().commit([Entry.of(view, row, stored)])
    after = hs.Store.open(store.path).cell_vectors()
    changed = (before.vectors != after.vectors).any(1)
    assert {cell.rpartition("#")[0] for cell, new in zip(before.cells, changed, strict=True) if new} == {frame}
    assert len(after.runs) == 2, "the other frames are not read again"
    kept = store.sql("SELECT cell, vector FROM cell_vectors WHERE checkpoint IS NULL").fetchall()
    assert len(kept) == len(after.cells)
    assert np.allclose(dict(kept)[before.cells[0]], after.vectors[0]), "the later run stands in SQL"


def test_what_cannot_be_pooled_is_refused(made: Path, tmp_path: Path) -> None:
    store = hs.Store.open(made)
    with pytest.raises(RunError, match="of kind evaluate, expected finetune"):
        store.cell_vectors(next(run for run in run_ids(made) if "-evaluate-" in run))
    other = hs.Store(made, replace(store.recipe, normalise=replace(store.recipe.normalise, high=99.0)))
    with pytest.raises(RunError, match="was tuned on embeddings of nano-"):
        other.cell_vectors(finetuning(made))
    with pytest.raises(SplitError):
        store.cell_vectors(split="all of it")
    with pytest.raises(StoreError, match="cut after 2 layers"):
        store.with_encoder(cut=2).cell_vectors()
    drawn = SyntheticConfig(frames=4, shape=(96, 96), cells=3)
    new(tmp_path / "bare", NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn))
    with pytest.raises(StoreError, match="hela-store embed"):
        hs.Store.open(tmp_path / "bare").cell_vectors()


def test_similar_cells_are_those_of_the_largest_cosine(made: Path, runner: CliRunner) -> None:
    store = hs.Store.open(made)
    cell = store.cells_table()["cell"][3].as_py()
    asked = (
        "SELECT b.cell, array_cosine_similarity(a.vector, b.vector) AS s FROM cell_vectors a, cell_vectors b WHERE "
        f"a.cell = '{cell}' AND b.cell <> a.cell AND a.checkpoint IS NULL AND b.checkpoint IS NULL ORDER BY s DESC LIMIT 5"
    )
    expected = store.sql(asked).fetchall()
    printed = runner.invoke(main, ["similar", cell, "-s", str(made), "--limit", "5", "--json"])
    found = json.loads(printed.stdout)
    assert [row["similarity"] for row in found] == pytest.approx([s for _, s in expected], abs=1e-5)
    records = {row["cell"]: row for row in store.cells_table().to_pylist()}
    for row in found:
        record = records[row["cell"]]
        assert row["box"] == [record[name] for name in ("x0", "y0", "x1", "y1")]
        assert (row["frame"], row["label"]) == (record["frame"], record["label"])
    assert cell in runner.invoke(main, ["similar", found[0]["cell"], "-s", str(made), "--limit", "99"]).stdout


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("{frame}#9999", "frame {frame} has the labels "),
        ("{frame}x#1", "cells such as '{frame}#"),
        ("7", "expected an id of frame and label, such as"),
    ],
)
def test_a_cell_that_is_not_there_is_named_with_those_that_are(made: Path, cell: str, said: str) -> None:
    store = hs.Store.open(made)
    frame = next(iter(store.frame_records()))
    with pytest.raises(StoreError, match=re.escape(said.format(frame=frame))):
        store.similar(cell.format(frame=frame))
    with pytest.raises(StoreError, match="limit is 0"):
        store.similar(f"{frame}#1", limit=0)
