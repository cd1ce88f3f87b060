"""Training, detection, scores and imports on a real store, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from click.testing import CliRunner
from detectors import QUICK
from hela_store_cli.main import main

from hela_store.detection.config import DetectorConfig
from hela_store.detection.detect import detect, import_boxes, load_grid_head
from hela_store.detection.evaluate import describe_boxes, evaluate_detections
from hela_store.detection.rows import read_detections
from hela_store.detection.train import train_detector
from hela_store.errors import PromptError, RecipeError, RunError, SplitError
from hela_store.evaluation.rows import DETECTION_SCHEMA
from hela_store.runs.folder import latest, list_runs
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.evaluate import calibrate
from hela_store.store.store import Store


@pytest.mark.ci
def test_the_same_call_names_the_finished_run_and_fresh_makes_another(detector_store: Store) -> None:
    first = detect(detector_store, split="test", device="cpu")
    again = detect(detector_store, split="test", device="cpu")
    assert again == replace(first, reused=True) and not first.reused
    assert detect(detector_store, split="test", threshold=0.9, device="cpu").run != first.run
    assert detect(detector_store, split="test", device="cpu", fresh=True).run not in (first.run, again.run)
    before = len(list_runs(detector_store.path))
    asked = ["detect", "run", "-s", str(detector_store.path), "--device", "cpu"]
    told = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert "has done just this before" in told.stderr and len(list_runs(detector_store.path)) == before
    short = replace(QUICK, steps=2, evaluate_every=2)
    trained = train_detector(detector_store, short)
    assert train_detector(detector_store, short) == replace(trained, reused=True) and not trained.reused
    assert train_detector(detector_store, short, fresh=True).run != trained.run


def test_a_detector_learns_and_its_detections_are_rows(detected: Path) -> None:
    store = Store.open(detected)
    log = latest(store.path, "detector").log()
    assert [row["step"] for row in log if "loss" in row] == [30, 60]
    result = log[-1]["result"]
    assert result["f1"] > 0.2  # sixty steps; nothing found would be 0
    rows = store.sql("select * from detections").to_arrow_table().to_pylist()
    run = latest(store.path, "detect")
    assert {row["run"] for row in rows} == {run.id}
    cells = {c["cell"]: c for c in store.cells_table().to_pylist()}
    for row in rows:
        if row["cell"]:
            assert cells[row["cell"]]["frame"] == row["frame"] and row["iou"] >= 0.5
        assert 0 <= row["x0"] < row["x1"] <= 256 and 0 <= row["y0"] < row["y1"] <= 192
    matched = [row["cell"] for row in rows if row["cell"]]
    assert len(matched) == len(set(matched)) > 0
    counted = store.sql("select scorings from test_scorings").fetchall()
    assert counted == [(1,)]  # the detection run looked at test; the training did not


def test_scores_agree_with_the_rows(detected: Path) -> None:
    store = Store.open(detected)
    report = evaluate_detections(store, split="test")
    hits = "select count(*) from detections where split = 'test' and cell is not null and score >= ?"
    threshold = str(report.threshold)
    assert report.boxes["0.5"]["tp"] == store.sql(hits.replace("?", threshold)).fetchall()[0][0]
    assert report.cells == report.boxes["0.5"]["tp"] + report.boxes["0.5"]["fn"]
    assert report.recall_by["touching"]["n"] + report.recall_by["not touching"]["n"] == report.cells
    assert "0.7" in report.masks and report.seconds_per_view is not None
    json.dumps(report.to_json())
    assert describe_boxes(store, "test")["n"] == report.cells


def test_imported_truth_is_perfect(store: Store, tmp_path: Path) -> None:
    cells = store.cells_table().select(["frame", "x0", "y0", "x1", "y1"])
    pa_csv.write_csv(cells, tmp_path / "boxes.csv")
    result = import_boxes(store, tmp_path / "boxes.csv")
    report = evaluate_detections(store, result.run)
    assert report.boxes["0.7"]["f1"] == 1 and report.ap50_95 == pytest.approx(1) and report.masks == {}
    with pytest.raises(PromptError):
        import_boxes(store, tmp_path / "none.csv")


def test_a_frame_without_cells_is_no_error(detector_store: Store) -> None:
    result = detect(detector_store, split="test", threshold=1.0, device="cpu")
    assert result.detections == 0
    report = evaluate_detections(detector_store, result.run)
    assert report.boxes["0.5"]["recall"] == 0 and report.boxes["0.5"]["fp"] == 0
    found = read_detections(latest(detector_store.path, "detect"))
    assert all(part.scores.max() < 1 for part in found.values())


def test_a_detector_of_another_encoder_is_refused(detector_store: Store) -> None:
    recipe = detector_store.recipe
    other = Store(detector_store.path, replace(recipe, encoder=replace(recipe.encoder, precision="bfloat16")))
    with pytest.raises(RunError, match=r"was trained on embeddings of nano-.*detect train"):
        load_grid_head(other, latest(other.path, "detector"), "cpu")


def test_bad_input(detector_store: Store, tmp_path: Path) -> None:
    run = detect(detector_store, split="val", device="cpu").run
    with pytest.raises(RunError, match="looked at split val, not at test"):
        evaluate_detections(detector_store, run, split="test")
    with pytest.raises(RecipeError, match="steps is 0"):
        DetectorConfig(steps=0)
    with pytest.raises(RecipeError, match="backend is 'grids'"):
        DetectorConfig(backend="grids")
    with pytest.raises(SplitError):
        detect(detector_store, split="tests", device="cpu")


def test_a_detector_is_not_tested_on_frames_it_trained_on(detector_store: Store) -> None:
    recipe = detector_store.recipe
    other = Store(detector_store.path, replace(recipe, split=replace(recipe.split, train="4-4", test="0-1")))
    with pytest.raises(RunError, match=r"trained on 2 of the 2 frames to score.*the split has changed since"):
        detect(other, split="test", device="cpu")
    other = Store(detector_store.path, replace(recipe, split=replace(recipe.split, train="4-4", val="0-1")))
    for use in (lambda: detect(other, split="val", device="cpu"), lambda: calibrate(other, DetectedConfig())):
        with pytest.raises(RunError, match=r"trained on 2 of the 2 frames to score.*the split has changed since"):
            use()


def test_a_store_without_embeddings_says_so(store: Store) -> None:
    for segment in (store.path / "ledger").rglob("*.jsonl"):
        segment.unlink()
    with pytest.raises(SplitError, match="run `hela-store embed`"):
        train_detector(Store.open(store.path), QUICK)


def test_rows_have_the_columns_of_the_catalog(detected: Path) -> None:
    columns = Store.open(detected).sql("from detections limit 0").to_arrow_table().schema
    assert columns.remove(columns.get_field_index("run")).names == DETECTION_SCHEMA.names
    assert all(columns.field(f.name).type == f.type for f in DETECTION_SCHEMA if not pa.types.is_string(f.type))
