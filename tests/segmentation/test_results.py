"""Results belong to frames by name and by pixels, not by their place among the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from hela_store.errors import DatasetError, RunError, StoreError
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.evaluate import evaluate_detected
from hela_store.segmentation.segment import SegmentReport, segment
from hela_store.segmentation.stored import _neighbours
from hela_store.store.store import Store
from stores import reseal_tables

LOW = DetectedConfig(threshold=0.2, device="cpu")


@pytest.fixture
def images(detector_store: Store) -> list[np.ndarray]:
    rows = detector_store.frames_table().to_pylist()[:3]
    return [detector_store.pixels.image(row["frame"]) for row in rows]


def save(folder: Path, **images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        tifffile.imwrite(folder / f"{name}.tif", image)
    return folder


def segmented(store: Store, out: Path, *frames: Path, recover: bool = False) -> SegmentReport:
    prompts = replace(LOW, recover=recover)
    return segment(store, frames, SegmentConfig(out=out, prompts=prompts, overlay=False))


def masks(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("*_RES/*.tif"))}


def cells(out: Path) -> list[tuple[str, str, str, int]]:
    rows = pq.read_table(out / "cells.parquet").to_pylist()
    return [(row["sequence"], row["frame"], row["file"], row["label"]) for row in rows]


@pytest.mark.ci
def test_a_frame_that_comes_later_takes_no_mask_of_another(
    detector_store: Store, images: list[np.ndarray], tmp_path: Path
) -> None:
    folder, out = save(tmp_path / "data", b=images[0], d=images[1]), tmp_path / "out"
    segmented(detector_store, out, folder)
    before, known = masks(out), cells(out)
    assert list(before) == ["data_RES/mask_b.tif", "data_RES/mask_d.tif"]
    save(folder, a=images[2])
    report = segmented(detector_store, out, folder)
    assert (report.frames, report.done_before) == (3, 2)
    after = masks(out)
    assert after == before | {"data_RES/mask_a.tif": after["data_RES/mask_a.tif"]}
    assert [row for row in cells(out) if row[1] != "a"] == known and len(set(cells(out))) == len(cells(out))
    assert list(dict.fromkeys(frame for _, frame, _, _ in cells(out))) == ["a", "b", "d"]
    segmented(detector_store, tmp_path / "whole", folder)
    assert masks(tmp_path / "whole") == after and cells(tmp_path / "whole") == cells(out)


def test_a_frame_that_changed_is_refused(detector_store: Store, images: list[np.ndarray], tmp_path: Path) -> None:
    folder, out = save(tmp_path / "data", t001=images[0]), tmp_path / "out"
    segmented(detector_store, out, folder)
    before, known = masks(out), cells(out)
    assert list(before) == ["data_RES/mask001.tif"]
    save(folder, t001=images[1])
    with pytest.raises(StoreError, match="frame data/t001 changed since it was segmented into"):
        segmented(detector_store, out, folder)
    with pytest.raises(StoreError, match="frame data/t001 changed since"):
        segmented(detector_store, out, save(tmp_path / "other/data", t001=images[2]))
    assert masks(out) == before and cells(out) == known


def test_a_file_of_nobody_is_not_overwritten(detector_store: Store, images: list[np.ndarray], tmp_path: Path) -> None:
    folder, own = save(tmp_path / "data", t001=images[0]), tmp_path / "out/data_RES/mask001.tif"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a mask that somebody drew")
    with pytest.raises(
        StoreError, match=r"mask001\.tif is there and is not of frame data/t001; nothing is overwritten"
    ):
        segmented(detector_store, tmp_path / "out", folder)
    assert own.read_bytes() == b"a mask that somebody drew"


@pytest.mark.ci
def test_equal_numbers_are_told_apart_by_names(detector_store: Store, images: list[np.ndarray], tmp_path: Path) -> None:
    folder, out = save(tmp_path / "data", a1=images[0]), tmp_path / "out"
    segmented(detector_store, out, folder)
    save(folder, b1=images[1], c2=images[2])
    segmented(detector_store, out, folder)
    assert list(masks(out)) == ["data_RES/mask001.tif", "data_RES/mask002.tif", "data_RES/mask_b1.tif"]
    segmented(detector_store, tmp_path / "whole", folder)
    assert list(masks(tmp_path / "whole")) == [f"data_RES/mask{name}.tif" for name in ("002", "_a1", "_b1")]


def test_two_folders_of_one_name_are_not_one_sequence(
    detector_store: Store, images: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = save(tmp_path / "one/data", a=images[0]), save(tmp_path / "two/data", b=images[1])
    with pytest.raises(DatasetError, match=r"one/data and .*two/data would both be sequence data"):
        segmented(detector_store, tmp_path / "out", one, two)
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(one)
    segmented(detector_store, tmp_path / "out", Path())
    assert list(masks(tmp_path / "out")) == ["data_RES/mask_a.tif"]


def test_the_cells_of_every_mask_in_the_folder_are_in_its_table(
    detector_store: Store, images: list[np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = segmented(detector_store, out, save(tmp_path / "one", t000=images[0]))
    second = segmented(detector_store, out, save(tmp_path / "two", t000=images[1]))
    assert first.cells > 0 and second.cells > 0 and len(cells(out)) == first.cells + second.cells
    assert {file for _, _, file, _ in cells(out)} == set(masks(out))


def test_neighbours_are_known_by_numbers_in_names(
    detector_store: Store, images: list[np.ndarray], tmp_path: Path
) -> None:
    folder = save(tmp_path / "data", a=images[0], b=images[1])
    with pytest.raises(DatasetError, match=r"no frame of data has a number in its name.*leave out --recover"):
        segmented(detector_store, tmp_path / "out", folder, recover=True)
    assert not (tmp_path / "out").exists()
    path = detector_store.path / "store.toml"
    path.write_text(path.read_text().replace('reader = "ctc"', 'reader = "folder"').replace('"ST"', '"masks"'))
    stills = Store.open(detector_store.path)
    assert evaluate_detected(stills, replace(LOW, split="all", recover=True)).cells > 0
    frames = stills.path / "ingest/frames-0001.parquet"
    rows = pq.read_table(frames)
    names = [name.translate(str.maketrans("01234567", "abcdefgh")) for name in rows["name"].to_pylist()]
    ids = pa.array([f"01/{name}" for name in names])
    rows = rows.set_column(rows.column_names.index("frame"), "frame", ids)
    pq.write_table(rows.set_column(rows.column_names.index("name"), "name", [names]), frames)
    reseal_tables(stills.path)
    with pytest.raises(RunError, match="stills without numbers in their names"):
        _neighbours(Store.open(stills.path))


def test_results_of_an_earlier_version_are_left_alone(
    detector_store: Store, images: list[np.ndarray], tmp_path: Path
) -> None:
    folder, out = save(tmp_path / "data", t001=images[0]), tmp_path / "out"
    segmented(detector_store, out, folder)
    settings = out / "segment.json"
    settings.write_text(settings.read_text().replace('"layout": 2', '"layout": 1'))
    with pytest.raises(StoreError, match="another version of hela-store; choose another --out"):
        segmented(detector_store, out, folder)
