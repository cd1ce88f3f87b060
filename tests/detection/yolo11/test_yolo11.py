"""The yolo11 backend: what its process gets and gives, and the real package on a tiny size where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main
from PIL import Image

from hela_store.base.files import sha256_file
from hela_store.base.progress import silent
from hela_store.detection.config import YoloConfig
from hela_store.detection.detect import detect, load_grid_head
from hela_store.detection.evaluate import evaluate_detections
from hela_store.detection.yolo11.images import BLANK, Tiles, boxes_in, write_dataset
from hela_store.detection.yolo11.train import PROCESS, _in_frame, _run, train_yolo
from hela_store.errors import ExtraError, RecipeError, RunError
from hela_store.runs.folder import load_run, partial_runs
from hela_store.store.store import Store
from hela_store.training.data import training_views

there = importlib.util.find_spec("ultralytics") is not None
installed = pytest.mark.skipif(not there, reason="ultralytics (AGPL-3.0, extra yolo) is not installed")


def test_cells_of_a_view_become_boxes_and_the_rest_of_others_says_nothing() -> None:
    label = np.zeros((40, 60), np.int32)
    label[10:20, 10:30] = 1
    label[10:20, 35:45] = 2  # the view shows a half
    label[25:35, 36:56] = 3  # and of this one a fifth
    valid = np.ones((40, 40), bool)
    valid[:5] = False
    boxes, shown = boxes_in(label, (0, 0, 40, 40), valid)
    assert boxes == [[20 / 40, 15 / 40, 20 / 40, 10 / 40], [37.5 / 40, 15 / 40, 5 / 40, 10 / 40]]
    large, also_shown = boxes_in(label * 500_000_000, (0, 0, 40, 40), valid)  # counted by value it would fill memory
    assert large == boxes and np.array_equal(shown, also_shown)
    assert not shown[:5].any() and not shown[25:35, 36:].any() and shown[10:20].all()


def test_the_data_set_holds_the_views_of_a_block_and_nothing_else(store: Store, tmp_path: Path) -> None:
    views = {"train": training_views(store, "train"), "val": training_views(store, "val")}
    about = write_dataset(store, views, tmp_path / "data", silent)
    files = sorted(path.stem for path in (tmp_path / "data/images/train").iterdir())
    assert files == sorted(view.view for view in views["train"]) and len(files) == 4
    lines = [(tmp_path / f"data/labels/train/{name}.txt").read_text().splitlines() for name in files]
    assert sum(map(len, lines)) == sum(len(view.cells) for view in views["train"])
    with Image.open(tmp_path / f"data/images/train/{files[0]}.png") as image:
        assert image.size == (256, 192) and image.mode == "L" and np.asarray(image).max() > BLANK
    assert "images/test" not in about.read_text() and str(tmp_path / "data") in about.read_text()


def test_boxes_of_neighbouring_views_become_one_list() -> None:
    tiles = Tiles(names=["a", "b"], rects=[(0, 0, 60, 50), (40, 0, 60, 50)], shape=(50, 100))
    found = _in_frame(
        tiles, {"a": [[42, 10, 56, 24, 0.8], [5, 5, 20, 20, 0.9]], "b": [[2, 10, 16, 24, 0.7], [50, 5, 70, 30, 0.6]]}
    )
    assert found.boxes.tolist() == [[5, 5, 20, 20], [42, 10, 56, 24], [90, 5, 100, 30]] or found.boxes[
        :, 0
    ].tolist() == [5, 42, 90]
    assert (found.boxes[:, 2] <= 100).all() and len(_in_frame(tiles, {})) == 0


@pytest.mark.ci
def test_the_process_ends_with_who_started_it(tmp_path: Path) -> None:
    """A stand-in for ultralytics that never ends: the process is gone once its stdin is closed."""
    (tmp_path / "ultralytics").mkdir()
    (tmp_path / "ultralytics/__init__.py").write_text("import time\ntime.sleep(600)\n")
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"task": "predict"}))
    process = subprocess.Popen(
        [sys.executable, PROCESS, job], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    time.sleep(0.1)
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=300) == 1


@pytest.mark.ci
def test_a_process_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ended with 1 \(KeyError: 'scribble'\); all it said is in"):
        list(_run({"task": "scribble"}, tmp_path / "work", tmp_path / "yolo11.log"))


def test_what_cannot_be_trained_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="image_size is 650, expected a multiple of 32"):
        YoloConfig(image_size=650)
    with pytest.raises(RecipeError, match="steps is 0"):
        YoloConfig(steps=0)
    given = ["detect", "train", "-s", str(store.path), "--backend"]
    done = CliRunner().invoke(main, [*given, "yolo11", "--lr", "0.1"])
    assert done.exit_code == 2 and "--lr is no option of --backend yolo11" in done.output
    done = CliRunner().invoke(main, [*given, "grid", "--image-size", "640"])
    assert done.exit_code == 2 and "--image-size is no option of --backend grid" in done.output
    expected = (RunError, "no weights at") if there else (ExtraError, r"hela-store\[yolo\].*AGPL-3.0")
    with pytest.raises(expected[0], match=expected[1]):
        train_yolo(store, YoloConfig(weights=tmp_path / "none.safetensors"))
    assert partial_runs(store.path) == []


@installed
@pytest.mark.slow
def test_the_real_package_trains_detects_and_is_scored(store: Store) -> None:
    config = YoloConfig(steps=4, batch=2, image_size=64, device="cpu")
    result = train_yolo(store, config)
    run = load_run(store.path, result.run, "detector")
    assert run.config["backend"] == "yolo11" and [row["epoch"] for row in run.log() if "epoch" in row] == [1, 2]
    assert {path.name for path in run.path.iterdir()} == {
        "config.json",
        "log.jsonl",
        "weights.safetensors",
        "yolo11.log",
    }
    found = detect(store, run.id, "test", threshold=0.05, device="cpu")
    assert found.seconds_per_view is not None and found.seconds_per_view > 0
    report = evaluate_detections(store, found.run)
    assert report.cells == 2 and report.masks == {}
    with pytest.raises(RunError, match="is a yolo11 detector, expected a grid one; of others give the detections"):
        load_grid_head(store, run)
    begun = train_yolo(store, YoloConfig(steps=1, batch=2, image_size=64, device="cpu", weights=run.weights))
    assert load_run(store.path, begun.run).config["weights"] == sha256_file(run.weights)
