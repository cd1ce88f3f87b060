"""Segmentation without a store: the detector that ships, by the same way as a store's."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner
from hela_store_cli.main import main
from scipy import ndimage

import hela_store as hs
from hela_store.datasets.synthetic import write_sequence
from hela_store.detection import generic
from hela_store.detection.head import load_head, save_head
from hela_store.errors import DatasetError, RunError, StoreError
from hela_store.metrics.overlap import iou
from hela_store.runs.folder import load_run
from hela_store.sam.nano import NANO_SHA256
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.segment import segment_image
from hela_store.segmentation.segmenter import kept_generic_segmenter, resolve_generic
from hela_store.store.store import Store

LOW = DetectedConfig(threshold=0.2, device="cpu")


@pytest.fixture
def shipped(detected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ship the detector that tests train, in place of the package's own."""
    store = Store.open(detected)
    head = load_head(load_run(detected, "latest", "detector").weights, store.key)
    path = tmp_path / "nano-detector.safetensors"
    save_head(path, head, NANO_SHA256)
    monkeypatch.setattr(generic, "GENERIC_FILE", path)
    monkeypatch.setattr(generic, "GENERIC_THRESHOLD", 0.2)
    return path


@pytest.fixture
def frames(detected: Path, tmp_path: Path) -> Path:
    store = Store.open(detected)
    (tmp_path / "frames").mkdir()
    for row in store.frames_table().to_pylist()[:2]:
        tifffile.imwrite(tmp_path / "frames" / f"t{row['time']:03d}.tif", store.pixels.image(row["frame"]))
    return tmp_path / "frames"


@pytest.mark.ci
@pytest.mark.usefixtures("shipped")
def test_the_ways_are_those_of_a_store(detected: Path, frames: Path, tmp_path: Path) -> None:
    store = Store.open(detected)
    hs.segment(store, [frames], SegmentConfig(out=tmp_path / "a", prompts=LOW))
    report = hs.segment(None, [frames], SegmentConfig(out=tmp_path / "b", prompts=LOW))
    assert report.frames == 2 and report.cells > 4 and report.flagged is None
    names = sorted(path.name for path in (tmp_path / "a/frames_RES").glob("*.tif"))
    for name in names:
        label = tifffile.imread(tmp_path / "b/frames_RES" / name)
        assert np.array_equal(tifffile.imread(tmp_path / "a/frames_RES" / name), label) and label.any()
    label = tifffile.imread(tmp_path / "b/frames_RES" / names[0])
    image = tifffile.imread(frames / names[0].replace("mask", "t"))
    alone = hs.segment(image)
    assert alone.dtype == np.int32 and np.array_equal(alone, label)
    assert np.array_equal(hs.segment(np.repeat(image[..., None].astype(float), 3, axis=2)), label)
    # a store knows the camera's black level, which is taken off the intensity
    tables = [pq.read_table(tmp_path / name / "cells.parquet").drop_columns("mean_intensity") for name in "ab"]
    assert tables[0].equals(tables[1])
    again = hs.segment(None, [frames], SegmentConfig(out=tmp_path / "b", prompts=LOW))
    assert again == replace(report, done_before=2)
    with pytest.raises(StoreError, match="holds results of another threshold"):
        hs.segment(None, [frames], SegmentConfig(out=tmp_path / "b", prompts=replace(LOW, threshold=0.3)))
    with pytest.raises(StoreError, match="holds results of another detector"):
        hs.segment(store, [frames], SegmentConfig(out=tmp_path / "b", prompts=LOW))


@pytest.mark.usefixtures("shipped")
def test_the_command_works_where_no_store_is_only_if_it_is_told_to(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.delenv("HELA_STORE", raising=False)
    monkeypatch.chdir(tmp_path / "frames")
    given = ["segment", str(frames), "--out", str(tmp_path / "out"), "--json"]
    wrong = CliRunner().invoke(main, given)
    assert wrong.exit_code == 1 and "no store under" in wrong.stderr and "add --generic" in wrong.stderr
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*given, "--generic"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["cells"] > 4
    assert (tmp_path / "out/frames_RES/mask000.tif").is_file() and (tmp_path / "out/cells.parquet").is_file()
    monkeypatch.chdir(store.path)
    again = CliRunner().invoke(main, [*given, "--generic"])
    assert json.loads(again.stdout) == told | {"done_before": 2}
    plain = CliRunner().invoke(main, [*given[:-1], "--generic"]).stdout
    assert "out/frames_RES, and one row per cell is in" in plain.replace("\n", " ")  # folded at 80 columns
    assert re.search(r"already segmented +2\n", plain)
    both = CliRunner().invoke(main, [*given, "--generic", "-s", str(store.path)])
    assert both.exit_code == 2 and "--generic works without a store" in both.stderr
    run = CliRunner().invoke(main, [*given, "--generic", "--run", "20260101"])
    assert run.exit_code == 1 and "run '20260101' is in a store, and none is given" in run.stderr


@pytest.mark.parametrize(("radius", "side"), [(6, 384), (20, 420)])
def test_frames_of_small_cells_are_seen_in_smaller_tiles(radius: int, side: int) -> None:
    """A nucleus of 12 px spans two positions of the embedding of a tile of 420 px; both kinds are found."""
    centres = np.stack(np.meshgrid(*[np.arange(40, 400, 5 * radius)] * 2), -1).reshape(-1, 2)
    rows, columns = np.mgrid[:420, :420]
    image = np.full((420, 420), 100.0)
    for row, column in centres:
        image[np.hypot(rows - row, columns - column) <= radius] = 1000
    segmenter = kept_generic_segmenter(resolve_generic(DetectedConfig(device="cpu")))
    frame, found = segmenter.look(ndimage.gaussian_filter(image, 1.5))
    assert {max(tile[2:]) for tile in frame.tiles} == {side}
    label, _ = segmenter.cells(frame, found, [])
    hit = np.array([label[row, column] for row, column in centres])
    assert len(np.unique(hit[hit > 0])) > 0.9 * len(centres)


def test_without_a_shipped_detector_it_says_so(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic, "GENERIC_FILE", tmp_path / "nano-detector.safetensors")
    assert not generic.has_generic_head(NANO_SHA256)
    for ask in (
        lambda: hs.segment(np.zeros((20, 30))),
        lambda: hs.segment(None, [frames], SegmentConfig(out=tmp_path / "out")),
    ):
        with pytest.raises(RunError, match=r"ships no detector .*`hela-store detect train -s NAME`"):
            ask()
    assert not (tmp_path / "out").exists()


def test_a_detector_of_other_weights_is_refused(shipped: Path) -> None:
    save_head(shipped, generic.load_generic_head(NANO_SHA256), "0" * 64)
    with pytest.raises(RunError, match="was trained on embeddings of 0000"):
        hs.segment(np.zeros((20, 30)))


@pytest.mark.usefixtures("shipped")
def test_blank_images_and_what_is_no_image() -> None:
    blank = segment_image(np.full((40, 50), 7, np.uint16))
    assert blank.shape == (40, 50) and blank.dtype == np.int32 and not blank.any()
    with pytest.raises(DatasetError, match="nothing to segment: expected an image, or a store"):
        hs.segment(None, None, None)  # type: ignore[call-overload]
    with pytest.raises(DatasetError, match="takes an image alone"):
        hs.segment(np.zeros((4, 4)), [], SegmentConfig(out=Path("x")))  # type: ignore[call-overload]


def test_the_shipped_detector_finds_drawn_cells_it_never_saw(tmp_path: Path) -> None:
    write_sequence(tmp_path, sequence="01", frames=1, shape=(512, 512), cells=30)
    truth = tifffile.imread(next(tmp_path.glob("01_*/SEG/*.tif")))
    labels = hs.segment(tifffile.imread(next(tmp_path.glob("01/*.tif"))))
    assert labels.dtype == np.int32 and labels.shape == truth.shape
    known, found = (np.unique(values)[1:] for values in (truth, labels))
    right = sum(max((iou(truth == cell, labels == other) for other in found), default=0.0) > 0.5 for cell in known)
    assert len(known) > 10 and right >= 0.8 * len(known) and right >= 0.8 * len(found)


def test_what_ships_is_loaded_once_in_a_process() -> None:
    prompts = resolve_generic(DetectedConfig())
    with ThreadPoolExecutor(4) as pool:
        kept = [*pool.map(kept_generic_segmenter, [prompts] * 4)]
    assert len({id(each) for each in kept}) == 1
    other = kept_generic_segmenter(replace(prompts, threshold=0.25))
    assert other is not kept[0] and other.threshold == 0.25
