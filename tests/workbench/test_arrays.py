"""Images, labels, masks and cells of a store as arrays and tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import hela_store as hs
from hela_store.errors import RunError, SplitError, StoreError
from hela_store.images.rle import decode_crop, paste
from hela_store.runs.folder import load_run, run_ids


def evaluation(path: Path) -> str:
    return next(run for run in run_ids(path) if "-evaluate-" in run)


def test_image_and_labels_are_those_that_were_ingested(embedded: Path) -> None:
    store = hs.Store.open(embedded)
    frame = next(iter(store.frame_records()))
    assert np.array_equal(store.image(frame), store.pixels.image(frame))
    labels = store.labels(frame)
    cells = store.cells().filter(f"frame = '{frame}'").project("label, area").fetchall()
    assert labels.dtype == np.int32 and labels.shape == store.image(frame).shape
    assert {label: int((labels == label).sum()) for label, _ in cells} == dict(cells)


def test_masks_of_an_evaluation_have_the_labels_of_their_cells(scored: Path) -> None:
    store, run = hs.Store.open(scored), evaluation(scored)
    rows = load_run(scored, run).rows("predictions", ["prompt_id", "cell", "frame", "rle"])
    kinds = {row["prompt_id"]: (row["kind"], row["prompt_seed"]) for row in load_run(scored, run).rows("prompts")}
    shape = store.frame_records()[rows[0]["frame"]].shape
    boxed = [row for row in rows if kinds[row["prompt_id"]] == ("box", 1)]
    stored = {row["cell"]: paste(*decode_crop(row["rle"], *shape), shape, (0, 0)) for row in boxed}
    labels, table = store.masks(run, rows[0]["frame"], prompt="box", prompt_seed=1)
    assert labels.dtype == np.int32 and set(table["id"].to_pylist()) == set(stored)
    for label, cell, area in zip(*(table[name].to_pylist() for name in ("label", "id", "area")), strict=True):
        assert cell.endswith(f"#{label}") and area == (labels == label).sum()
        assert stored[cell][labels == label].all(), "a pixel belongs to a mask that has it"
    assert np.array_equal(labels > 0, np.any(list(stored.values()), axis=0))


def test_masks_of_detections_are_numbered_and_a_frame_without_any_is_empty(detected: Path) -> None:
    store = hs.Store.open(detected)
    run = next(run for run in run_ids(detected) if "-detect-" in run)
    for frame, record in store.frame_records().items():
        labels, table = store.masks(run, frame)
        assert labels.shape == record.shape
        assert table["label"].to_pylist() == list(range(1, table.num_rows + 1))


def test_cells_of_a_split_are_those_of_its_frames(embedded: Path) -> None:
    store = hs.Store.open(embedded)
    test = {frame for frame, block in store.blocks().items() if block == "test"}
    assert {row[0] for row in store.cells(split="test").project("frame").fetchall()} == test
    assert len(store.cells()) == store.cells_table().num_rows


def test_what_is_not_there_is_said(scored: Path) -> None:
    store, run = hs.Store.open(scored), evaluation(scored)
    frames = list(store.frame_records())
    for read in (store.image, store.labels, lambda frame: store.masks(run, frame)):
        with pytest.raises(StoreError, match=f"no frame '{frames[0]}x'; expected an id such as"):
            read(frames[0] + "x")
    with pytest.raises(RunError, match=f"no masks of frame {frames[0]}; it has masks of frames such as"):
        store.masks(run, frames[0], prompt="box")
    with pytest.raises(RunError, match="choose one"):
        store.masks(run, frames[7])
    with pytest.raises(SplitError, match="expected train, val, test or all"):
        store.cells(split="holdout")


def test_a_damaged_image_is_no_array(embedded: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded, tmp_path / "store")
    frame = next(iter(hs.Store.open(embedded).frame_records()))
    files = list((tmp_path / "store" / "arrays.zarr" / "frames").rglob("image/c.*"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError):
        hs.Store.open(tmp_path / "store").image(frame)


def test_another_encoder_keeps_the_kind_of_store(embedded: Path) -> None:
    assert isinstance(hs.Store.open(embedded).with_encoder(cut=None), hs.Store)
