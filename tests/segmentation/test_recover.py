"""`segment --recover`: the same cells as `evaluate --recover`, frame by frame, whatever interrupts it."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.detection.detections import from_boxes, no_detections
from hela_store.detection.rows import PLAIN_SCHEMA, from_rows, plain_rows
from hela_store.embedding.record import threads
from hela_store.errors import StoreError
from hela_store.images.rle import encode
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.resolve import resolve_prompts
from hela_store.segmentation.segment import segment
from hela_store.segmentation.segmenter import Segmenter, load_segmenter
from hela_store.segmentation.stored import segmented_frames
from hela_store.store.store import Store

RECOVER = DetectedConfig(split="all", threshold=0.2, recover=True, device="cpu")
COUNT = 3
KILLED = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.segment import SegmentConfig, segment
from hela_store.store.store import Store

def progress(iterable, *, total, what):
    for number, item in enumerate(iterable):
        if what == "segment" and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

prompts = DetectedConfig(split="all", threshold=0.2, recover=True, device="cpu")
store, frames, out = (Path(name) for name in sys.argv[1:])
segment(Store.open(store), [frames], SegmentConfig(out=out, prompts=prompts), progress=progress)
"""


@pytest.fixture
def frames(detector_store: Store, tmp_path: Path) -> Path:
    """Return a folder of the first stored frames."""
    folder = tmp_path / "seq"
    folder.mkdir()
    for row in detector_store.frames_table().to_pylist()[:COUNT]:
        tifffile.imwrite(folder / f"t{row['time']:03d}.tif", detector_store.pixels.image(row["frame"]))
    return folder


def results(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.ci
@threads(1)  # of the killed process, too
def test_a_killed_job_goes_on_and_ends_in_the_same_files(
    detector_store: Store, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Segmenter] = []
    look = Segmenter.look

    def counted(self: Segmenter, *given: Any) -> object:
        looks.append(self)
        return look(self, *given)

    monkeypatch.setattr(Segmenter, "look", counted)
    straight = segment(detector_store, [frames], SegmentConfig(out=tmp_path / "straight", prompts=RECOVER))
    assert len(looks) == straight.frames == COUNT  # each is encoded once
    command = [sys.executable, "-c", KILLED, str(detector_store.path), str(frames), str(tmp_path / "killed")]
    done = forked.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    again = segment(detector_store, [frames], SegmentConfig(out=tmp_path / "killed", prompts=RECOVER))
    assert (again.done_before, again.recovered) == (2, straight.recovered)
    assert results(tmp_path / "killed") == results(tmp_path / "straight")

    # the same as from the store, all in memory
    prompts = resolve_prompts(detector_store, RECOVER)
    names = detector_store.frames_table()["frame"].to_pylist()[:COUNT]
    marked = 0
    for number, frame in enumerate(segmented_frames(detector_store, prompts, names)):
        label = tifffile.imread(tmp_path / f"straight/seq_RES/mask{number:03d}.tif")
        if number < COUNT - 1:  # in the store the last one has another neighbour
            assert np.array_equal(label, frame.label)
            marked += sum(cell.recovered for cell in frame.cells)
    table = pq.read_table(tmp_path / "straight/cells.parquet").to_pylist()
    assert marked == sum(row["recovered"] for row in table if row["frame"] != f"t{COUNT - 1:03d}")


@pytest.mark.ci
def test_a_frame_is_segmented_anew_when_it_gets_another_neighbour(
    detector_store: Store, frames: Path, tmp_path: Path
) -> None:
    first, grown = (SegmentConfig(out=tmp_path / name, prompts=RECOVER) for name in ("whole", "grown"))
    files = sorted(frames.iterdir())
    segment(detector_store, [frames], first)
    assert segment(detector_store, files[:2], grown).frames == 2
    report = segment(detector_store, [frames], grown)
    assert report.done_before == 1  # the second has the third beside it now
    assert results(tmp_path / "grown") == results(tmp_path / "whole")
    given = ["segment", str(frames), "-s", str(detector_store.path), "--out", str(tmp_path / "grown"), "--zero-shot"]
    done = CliRunner().invoke(main, [*given, "--recover", "--threshold", "0.2", "--json"])
    told = json.loads(done.stdout)
    assert told["done_before"] == COUNT and told["recovered"] == report.recovered
    with pytest.raises(StoreError, match="holds results of another recover; choose another --out"):
        segment(detector_store, [frames], replace(grown, prompts=replace(RECOVER, recover=False)))


def test_what_neighbours_show_is_found(detector_store: Store) -> None:
    row = detector_store.frames_table().to_pylist()[0]
    cells = [c for c in detector_store.cells_table().to_pylist() if c["frame"] == row["frame"]]
    boxes = [[float(c[name]) for name in ("x0", "y0", "x1", "y1")] for c in cells]
    segmenter = load_segmenter(detector_store, resolve_prompts(detector_store, RECOVER))
    frame, _ = segmenter.look(detector_store.pixels.image(row["frame"]))
    others = [from_boxes(boxes, np.ones(len(boxes)))]
    label, found = segmenter.cells(frame, no_detections(), others)
    assert len(cells) / 2 < len(found) == label.max() and all(cell.recovered for cell in found)
    assert segmenter.cells(frame, no_detections(), [])[1] == []
    blank, nothing = segmenter.look(np.full((90, 120), 7, np.uint16))
    assert blank.is_blank and len(nothing) == 0 and not segmenter.cells(blank, nothing, others)[0].any()


def test_detections_are_read_back_to_the_bit() -> None:
    boxes = np.array([[1 / 3, 2.5, 7.1, 9], [4, 4, 8, 8]])
    mask = encode(np.ones((3, 4), bool), (2, 5), (20, 30))
    found = replace(from_boxes(boxes, [0.7, 1 / 7], [[1 / 9, 3.0], [5.0, 5.0]]), masks=(mask, None))
    back = from_rows(pa.Table.from_pylist(plain_rows(found), PLAIN_SCHEMA).to_pylist())
    assert all(np.array_equal(getattr(found, name), getattr(back, name)) for name in ("boxes", "scores", "points"))
    assert back.masks == found.masks and len(from_rows([])) == 0
