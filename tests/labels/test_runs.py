"""Runs pin the version of the labels that they read, and never mix two without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from label_events import make_event

from hela_store.catalog import index as catalog
from hela_store.errors import RunError
from hela_store.evaluation.compare import compare
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.reads import labels_apart
from hela_store.evaluation.rescore import rescore
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import cells_at, label_at
from hela_store.runs.folder import load_run
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

BOX = EvaluateConfig(prompts=("box",), prompt_seeds=1)


@pytest.fixture(scope="module")
def changed(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return a store with an evaluation before a cell of a test frame shrank, and one after. Not to be changed."""
    path = tmp_path_factory.mktemp("changed") / "store"
    shutil.copytree(embedded, path)
    before = evaluate(Store.open(path), None, BOX).run
    store = Store.open(path)
    label = label_at(store, "01/t007")
    cell = int(np.unique(label[label > 0])[0])
    half = (label == cell) & (np.arange(label.shape[0])[:, None] < np.median(np.nonzero(label == cell)[0]))
    with LabelLog(store) as log:
        log.append([make_event("replace", "01/t007", (cell,), (half,))])
        train = label_at(store, "01/t000")
        log.append([make_event("erase", "01/t000", (int(train.max()),))])
    return path, before, evaluate(Store.open(path), None, BOX).run


def test_a_run_pins_the_version_that_it_read(changed: tuple[Path, str, str]) -> None:
    path, before, after = changed
    assert [load_run(path, run).labels_version for run in (before, after)] == [0, 2]
    sql = "SELECT run, labels_version, trained_labels_version, sum(area) AS area FROM cell_metrics GROUP BY ALL ORDER BY 2"
    rows = catalog.query(path, sql).to_pylist()
    assert [(row["run"], row["labels_version"], row["trained_labels_version"]) for row in rows] == [
        (before, 0, None),
        (after, 2, None),
    ]
    store = Store.open(path)
    for row in rows:
        cells = [cell.area for cell in cells_at(store, row["labels_version"]) if cell.frame == "01/t007"]
        assert row["area"] == sum(cells), "the areas are of the version that was scored"
    assert rows[0]["area"] > rows[1]["area"]


def test_the_same_is_not_scored_again_but_other_labels_are(changed: tuple[Path, str, str]) -> None:
    path, before, after = changed
    assert evaluate(Store.open(path), None, BOX).run == after
    assert evaluate(Store.open(path).at_labels(0), None, BOX).run == before


def test_the_catalog_is_the_same_made_again(changed: tuple[Path, str, str]) -> None:
    path = changed[0]
    tables = ("label_events", "cell_versions", "cells", "cells_at", "frames", "runs", "cell_metrics")
    found = [
        catalog.query(path, f"SELECT md5(string_agg(t::VARCHAR, '' ORDER BY t::VARCHAR)) FROM {t} t") for t in tables
    ]
    catalog.rebuild(path)
    again = [
        catalog.query(path, f"SELECT md5(string_agg(t::VARCHAR, '' ORDER BY t::VARCHAR)) FROM {t} t") for t in tables
    ]
    assert [table.to_pylist() for table in found] == [table.to_pylist() for table in again]
    cells = catalog.query(path, "SELECT cell, area FROM cells ORDER BY cell").to_pylist()
    assert cells == [{"cell": c.cell, "area": c.area} for c in sorted(cells_at(Store.open(path)), key=lambda c: c.cell)]


def test_versions_are_never_mixed_and_the_way_out_works(changed: tuple[Path, str, str], tmp_path: Path) -> None:
    path, before, after = changed
    shutil.copytree(path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    with pytest.raises(
        RunError, match=f"{before} version 0, {after} version 2.*hela-store score .*--labels-version latest"
    ):
        compare(store, [before, after])
    found = rescore(store, before)
    assert (found.labels_before, found.labels_version, found.gone, found.unanswered) == (0, 2, 0, 0)
    assert found.mean_iou < found.mean_iou_before
    rows = {row["cell"]: row["iou"] for row in load_run(store.path, found.run).rows("predictions", ["cell", "iou"])}
    other = {row["cell"]: row["iou"] for row in load_run(store.path, before).rows("predictions", ["cell", "iou"])}
    assert sum(rows[cell] != other[cell] for cell in rows) == 1, "only the cell that changed scores differently"
    compared = compare(store, [found.run, after])
    assert compared.rows[0].n == len(rows)
    assert rescore(store, before).reused and rescore(store, before).run == found.run
    back = rescore(store, found.run, 0)
    again = {row["cell"]: row["iou"] for row in load_run(store.path, back.run).rows("predictions", ["cell", "iou"])}
    assert again == other, "scored on the labels as ingested it is what it was"


def test_a_training_pins_its_version_also_in_its_loaders(changed: tuple[Path, str, str], tmp_path: Path) -> None:
    shutil.copytree(changed[0], tmp_path / "store")
    store = Store.open(tmp_path / "store")
    quick = FinetuneConfig.of(prompt="box", steps=1, cells=2, workers=0, evaluate_every=1)
    old = finetune(store.at_labels(0), quick)
    new = finetune(store, quick)
    assert [load_run(store.path, each.run).labels_version for each in (old, new)] == [0, 2]
    scored = evaluate(store, old.run, BOX)
    assert labels_apart(store, scored.run).endswith("trained on version 0 of the labels, and scored on version 2")
    sql = "SELECT DISTINCT labels_version, trained_labels_version FROM cell_metrics WHERE run = ?"
    assert catalog.query(store.path, sql, [scored.run]).to_pylist() == [
        {"labels_version": 2, "trained_labels_version": 0}
    ]


def test_verify_finds_a_version_that_a_run_read_and_that_is_lost(
    changed: tuple[Path, str, str], tmp_path: Path
) -> None:
    shutil.copytree(changed[0], tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert verify(store, VerifyConfig(device="cpu")).whole
    (store.path / "labels/00000002.jsonl").unlink()
    found = verify(Store.open(store.path), VerifyConfig(device="cpu"))
    assert any("read version 2 of the labels, and the log ends at 1" in fault.note for fault in found.faults)
    assert all(fault.kind == "damaged" for fault in found.faults)
