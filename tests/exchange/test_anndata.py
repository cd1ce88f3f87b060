"""Cells as AnnData, opened by anndata itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import hela_store as hs
from hela_store.errors import AlreadyComplete, RunError
from hela_store.exchange.anndata import METRICS, export_anndata
from hela_store.runs.folder import run_ids

anndata = pytest.importorskip("anndata")


@pytest.fixture(scope="module")
def path(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the scored store, with own columns of its evaluation."""
    path = tmp_path_factory.mktemp("anndata") / "store"
    shutil.copytree(scored, path)
    return path


def evaluation(path: Path) -> str:
    return next(run for run in run_ids(path) if "-evaluate-" in run)


def test_vectors_cells_and_scores_are_what_the_store_has(path: Path, tmp_path: Path) -> None:
    store, run, out = hs.Store.open(path), evaluation(path), tmp_path / "cells.h5ad"
    scored = store.sql(
        f"SELECT cell, iou, failure, is_empty FROM cell_metrics WHERE run = '{run}' AND prompt = 'box' AND prompt_seed = 0"
    ).fetchall()
    store.add_metrics(
        run,
        store.sql(
            f"SELECT DISTINCT cell, 7.5::DOUBLE AS brightness FROM cell_metrics WHERE run = '{run}'"
        ).to_arrow_table(),
    )
    export_anndata(store, out, run, prompt="box")
    read = anndata.read_h5ad(out)
    found = store.cell_vectors()
    assert list(read.obs_names) == found.cells and np.array_equal(read.X, found.vectors) and read.X.dtype == np.float32
    rows = {row["cell"]: row for row in store.cells_table().to_pylist()}
    assert read.obs["area"].tolist() == [rows[cell]["area"] for cell in found.cells]
    assert read.obsm["spatial"].tolist() == [[rows[cell]["cx"], rows[cell]["cy"]] for cell in found.cells]
    assert set(METRICS) | {"brightness", "split", "frame", "label"} <= set(read.obs.columns)
    for cell, iou, failure, empty in scored:
        row = read.obs.loc[cell]
        assert row["iou"] == pytest.approx(iou) and row["failure"] == failure and row["is_empty"] == empty
    others = read.obs.index.difference([row[0] for row in scored])
    assert len(others) and read.obs.loc[others, ["iou", "is_empty", "brightness"]].isna().all(axis=None)
    about = read.uns["hela_store"]
    assert (about["encoder"], about["run"], about["prompt"]) == (store.key, run, "box")
    assert list(about["vectors"]) == list(found.runs)
    with pytest.raises(AlreadyComplete):
        export_anndata(store, out, run, prompt="box")


def test_without_a_run_there_are_only_cells(path: Path, tmp_path: Path) -> None:
    store = hs.Store.open(path)
    found = export_anndata(store, tmp_path / "plain.h5ad")
    assert found.run is None and not set(METRICS) & set(found.columns) and found.cells == store.cell_count()


def test_what_cannot_be_exported_is_refused(path: Path, tmp_path: Path) -> None:
    store = hs.Store.open(path)
    with pytest.raises(RunError, match=r"expected \.h5ad"):
        export_anndata(store, tmp_path / "cells.csv")
    with pytest.raises(RunError, match=r"has the prompts .* choose one"):
        export_anndata(store, tmp_path / "cells.h5ad", evaluation(path))
    with pytest.raises(RunError, match="has no predictions"):
        export_anndata(store, tmp_path / "cells.h5ad", next(run for run in run_ids(path) if "-finetune-" in run))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_scanpy_works_on_it(path: Path, tmp_path: Path) -> None:
    scanpy = pytest.importorskip("scanpy")
    export_anndata(hs.Store.open(path), tmp_path / "cells.h5ad")
    read = scanpy.read_h5ad(tmp_path / "cells.h5ad")
    scanpy.pp.pca(read, n_comps=3)
    scanpy.pp.neighbors(read, n_neighbors=5)
    assert read.obsm["X_pca"].shape == (read.n_obs, 3)
