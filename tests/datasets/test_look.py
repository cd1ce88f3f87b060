from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from hela_store.datasets import estimate_offset, inspect, open_dataset
from hela_store.errors import DatasetError
from hela_store.images.normalise import limits


def write(path: Path, array: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **options)


def counts(level: int, dtype: str = "uint16") -> np.ndarray:
    image = np.full((40, 50), level)
    image[10:20, 10:30] += 100
    image[0, 0] += 1
    return image.astype(dtype)


def labels() -> np.ndarray:
    label = np.zeros((40, 50), np.uint16)
    label[10:20, 10:30], label[25:35, 5:15] = 4, 9
    return label


@pytest.mark.parametrize(
    ("image", "offset"),
    [
        (counts(32768 + 227), 32768.0),
        (counts(97), 97.0),
        (counts(1043), 1000.0),
        (counts(408), 400.0),
        (counts(0), 0.0),
        (counts(5), 5.0),
        (counts(20_000), 0.0),
        (counts(100, "uint8"), 0.0),
        (counts(100, "float32"), 0.0),
        (counts(-100, "float32"), -100.0),
        (counts(0, "float32") / -97, -1.1),
        ((counts(0, "float32") - 30) / 25, -1.3),
        (counts(0, "float64") * -1e-6, -1e-4),
    ],
)
def test_estimate_offset(image: np.ndarray, offset: float) -> None:
    assert estimate_offset([image]) == offset
    assert estimate_offset([image, image * 0]) == offset  # a blank frame says nothing


def test_a_float_frame_below_zero_is_not_black() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (60, 60)).astype(np.float32)
    image[20:40, 20:40] -= 4  # dark cells
    black = estimate_offset([image])
    assert np.percentile(image, 0.5) >= black > image.min() - 1
    assert limits(image, "percentile", offset=black)[0] == pytest.approx(np.percentile(image, 0.5))
    assert estimate_offset([np.abs(image)]) == 0  # nothing below zero: scaled already


def test_dead_pixels_do_not_hide_the_offset() -> None:
    image = counts(32900)
    image[5, 5] = 0
    assert estimate_offset([image]) == 32768.0
    assert estimate_offset([]) == 0.0


def test_a_challenge_data_set(tmp_path: Path) -> None:
    root = tmp_path / "Fluo-N2DL-HeLa"
    for number in range(12):
        write(root / f"01/t{number:03}.tif", counts(33_000 + number))
        write(root / f"01_ST/SEG/man_seg{number:03}.tif", labels())
    write(root / "01_GT/SEG/man_seg003.tif", labels())
    write(root / "02/t000.tif", counts(33_000) * 0)
    summary = inspect(root)
    config = summary.config
    assert (config.reader, config.labels, config.sequences) == ("ctc", "ST", ("01", "02"))
    assert (config.offset, config.field_of_interest, config.pixel_size_um) == (32768.0, 25, 0.645)
    assert summary.pixel_size_from == "data set name"
    assert summary.times == {"01": tuple(range(12)), "02": (0,)}
    assert (summary.frames, summary.labelled) == (13, 12)
    assert summary.shapes == ((40, 50),) and summary.dtypes == ("uint16",) and summary.bits == 9
    assert summary.label_sets == ("ST", "GT", "GT+ST")
    assert summary.blank == ("02/t000",)
    assert summary.cells == 0 and summary.diameter is None  # a band of 25 px leaves nothing of a frame of 40
    assert len(open_dataset(config, tmp_path)) == 13


def test_cells_of_the_labels_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"01/t{number:03}.tif", counts(110))
        write(tmp_path / f"01_ST/SEG/man_seg{number:03}.tif", labels() * (number < 2))
    write(tmp_path / "01_GT/SEG/man_seg001.tif", np.where(labels() == 4, 1, 0).astype(np.uint8))
    summary = inspect(tmp_path, sequences=("01",), pixel_size_um=0.3)
    assert summary.config.field_of_interest == 0 and summary.config.offset == 110.0
    assert (summary.config.pixel_size_um, summary.pixel_size_from) == (0.3, "given")
    assert summary.cells == 4 and summary.cells_per_frame == pytest.approx((0, 4 / 3, 2))
    assert summary.extents.tolist() == [20, 10, 20, 10]
    assert summary.extent_p999 == pytest.approx(20, abs=0.1)
    assert summary.diameter == pytest.approx((2 * np.sqrt(200 / np.pi) + 2 * np.sqrt(100 / np.pi)) / 2)
    gold = inspect(tmp_path, labels="GT")
    assert gold.cells == 1 and gold.labelled == 1 and gold.config.labels == "GT"
    assert inspect(tmp_path, labels="none").cells_per_frame is None


def test_folders_and_stacks(tmp_path: Path) -> None:
    write(tmp_path / "a/images/x.tif", counts(10, "uint8"))
    write(tmp_path / "a/images/y.tif", counts(10, "uint8")[:20])
    write(tmp_path / "a/masks/x.tif", labels())
    summary = inspect(tmp_path / "a")
    assert (summary.config.reader, summary.config.labels) == ("folder", "masks")
    assert set(summary.shapes) == {(40, 50), (20, 50)} and summary.labelled == 1 and summary.bits == 7
    stack = np.stack([counts(100 + i) for i in range(9)])
    unit = {"unit": "micron", "axes": "TYX"}
    write(tmp_path / "movie.tif", stack, imagej=True, resolution=(2, 2), metadata=unit)
    summary = inspect(tmp_path / "movie.tif", axis="t")
    assert summary.times == {"movie": tuple(range(9))} and summary.config.labels == "none"
    assert summary.config.pixel_size_um == pytest.approx(0.5) and summary.pixel_size_from == "metadata"
    with pytest.raises(DatasetError, match="--axis t"):
        inspect(tmp_path / "movie.tif")


def test_layouts_no_reader_knows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        inspect(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"no frames found \(it holds notes\.txt\); expected"):
        inspect(tmp_path)
    write(tmp_path / "01/t000.tif", counts(3))
    with pytest.raises(DatasetError, match="is itself a sequence"):
        inspect(tmp_path / "01")


REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).resolve().parents[2] / "../shared/data"))


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real frames at {REALDATA} (HELA_REALDATA)")
def test_real_fluo() -> None:
    summary = inspect(REALDATA / "Fluo-N2DL-HeLa")
    config = summary.config
    assert (config.reader, config.labels, config.sequences) == ("ctc", "ST", ("01",))
    assert (config.offset, config.field_of_interest, summary.bits) == (32768.0, 25, 12)
    assert (summary.frames, summary.labelled, summary.cells) == (92, 92, 8600)
    assert summary.cells_per_frame is not None and summary.cells_per_frame[0::2] == (43, 136)
    assert summary.diameter == pytest.approx(25.8, abs=0.1)
