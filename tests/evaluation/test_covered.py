"""Frames that came after a run are not frames in which it found nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

import hela_store as hs
from hela_store.detection.detect import import_boxes
from hela_store.detection.evaluate import evaluate_detections
from hela_store.errors import RunError
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.runs.folder import load_run, run_ids
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.evaluate import evaluate_detected
from hela_store.store.store import Store


def detection(path: Path) -> str:
    return next(run for run in run_ids(path) if "-detect-" in run)


def without_record(path: Path, run: str) -> None:
    """Make a run what earlier versions wrote."""
    folder = path / "runs" / run
    (folder / "frames.parquet").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["frames.parquet"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def grown(detector_store: Store) -> tuple[hs.Store, str]:
    """Return the store with a detection run over all of its 8 frames, and a ninth that came afterwards."""
    data = detector_store.path / "data"
    for file in sorted(data.rglob("*007.tif")):
        image = tifffile.imread(file)
        tifffile.imwrite(file.with_name(file.name.replace("007", "008")), image[::-1].copy())
    hs.embed(detector_store, hs.EmbedConfig())
    return hs.Store.open(detector_store.path), detection(detector_store.path)


def test_a_frame_that_came_later_is_not_one_without_cells(grown: tuple[hs.Store, str]) -> None:
    store, run = grown
    later = [frame for frame in store.frame_records() if frame.endswith("008")]
    assert len(store.frame_records()) == 9 and len(later) == 1
    found = run_labels(store, run)
    assert list(found.answers) == [frame for frame in store.frame_records() if frame not in later]
    with pytest.raises(RunError, match=f"has no masks of frame {later[0]}"):
        store.masks(run, later[0])
    assert sum(score.frames for score in sequence_scores(found).sequences) == 8
    assert evaluate_detections(store, run).frames == 8
    with pytest.raises(RunError, match=rf"did not look at 1 of the 9 labelled frames of split all, such as {later[0]}"):
        evaluate_detected(store, DetectedConfig(detector=run, split="all"))


def test_what_an_earlier_version_covered_is_known_as_long_as_its_block_is_the_same(detector_store: Store) -> None:
    run = detection(detector_store.path)
    without_record(detector_store.path, run)
    assert list(run_labels(detector_store, run).answers) == list(detector_store.frame_records())
    split = replace(detector_store.recipe.split, test="6-7")
    moved = Store(detector_store.path, replace(detector_store.recipe, split=split))
    with pytest.raises(RunError, match=r"does not say which frames it looked at.*hela-store detect run"):
        run_labels(moved, run)


def test_imported_boxes_cover_the_frames_of_their_table(detector_store: Store, tmp_path: Path) -> None:
    frame = next(iter(detector_store.frame_records()))
    (tmp_path / "boxes.csv").write_text(f"frame,x0,y0,x1,y1,score\n{frame},10,10,30,30,0.9\n")
    found = import_boxes(detector_store, tmp_path / "boxes.csv")
    assert load_run(detector_store.path, found.run).rows("frames") == [{"frame": frame}]
    assert list(run_labels(detector_store, found.run).answers) == [frame]
    assert evaluate_detections(detector_store, found.run).frames == 1
