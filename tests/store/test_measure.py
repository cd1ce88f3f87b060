from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import regionprops

from hela_store.base.rng import generator
from hela_store.datasets import open_dataset
from hela_store.datasets.frame import Frame
from hela_store.images.geometry import tile_rectangles
from hela_store.recipe.recipe import DatasetRecipe
from hela_store.store.measure import measure_cells
from hela_store.store.tables import CELLS_SCHEMA


def frame_of(label: np.ndarray | None, pixel_size_um: float | None = None, shape: tuple[int, int] = (60, 80)) -> Frame:
    image = generator("measure").integers(100, 4000, shape if label is None else label.shape).astype(np.uint16)
    return Frame(
        sequence="01",
        name="t003",
        time=3,
        image=image,
        label=label,
        valid=np.ones(image.shape, bool),
        label_origin="" if label is None else "ST",
        pixel_size_um=pixel_size_um,
    )


def scene() -> np.ndarray:
    yy, xx = np.mgrid[:60, :80]
    label = np.zeros((60, 80), np.int32)
    label[((yy - 20) / 8) ** 2 + ((xx - 20) / 12) ** 2 < 1] = 12
    label[15:25, 32:40] = 5  # next to 12
    label[25:30, 40:48] = 9  # diagonal to 5
    label[50:60, 0:7] = 70_000
    label[40, 60:70] = 3  # a line
    label[50, 50] = 4  # a pixel
    label[10:13, 70:73], label[20:23, 70:73] = 6, 6  # two pieces
    return label


def test_against_skimage() -> None:
    label = scene()
    frame = frame_of(label, pixel_size_um=0.5)
    table = measure_cells(frame, tile_rectangles(label.shape, 0, 0), offset=100.0)
    assert table.schema == CELLS_SCHEMA
    rows = table.to_pylist()
    props = regionprops(label, intensity_image=frame.image)
    assert [row["label"] for row in rows] == [prop.label for prop in props]
    for row, prop in zip(rows, props, strict=True):
        assert row["cell"] == f"01/t003#{prop.label}" and row["frame"] == "01/t003"
        assert row["area"] == prop.area and row["area_um2"] == pytest.approx(prop.area * 0.25)
        assert row["diameter"] == pytest.approx(prop.equivalent_diameter_area)
        assert (row["y0"], row["x0"], row["y1"], row["x1"]) == prop.bbox
        assert (row["cy"], row["cx"]) == pytest.approx(prop.centroid)
        assert row["eccentricity"] == pytest.approx(prop.eccentricity, abs=1e-6)
        assert row["mean_intensity"] == pytest.approx(prop.intensity_mean - 100)


def test_neighbours_and_border() -> None:
    rows = {row["label"]: row for row in measure_cells(frame_of(scene()), [(0, 0, 80, 60)], 0.0).to_pylist()}
    assert {label for label, row in rows.items() if row["touches_neighbour"]} == {12, 5, 9}
    assert {label for label, row in rows.items() if row["touches_border"]} == {70_000}
    assert rows[5]["area_um2"] is None


def test_huge_label_values() -> None:
    label = np.where(scene() == 12, 2_000_000_000, 0).astype(np.int32)
    table = measure_cells(frame_of(label), [(0, 0, 80, 60)], 0.0)
    assert table["label"].to_pylist() == [2_000_000_000] and table["area"].to_pylist() == [int((label > 0).sum())]


@pytest.mark.parametrize("label", [None, np.zeros((60, 80), np.int32)])
def test_no_cells(label: np.ndarray | None) -> None:
    table = measure_cells(frame_of(label), [(0, 0, 80, 60)], 0.0)
    assert table.num_rows == 0 and table.schema == CELLS_SCHEMA


def test_round_trip_is_better_in_tiles() -> None:
    yy, xx = np.mgrid[:400, :1200]
    label = np.zeros((400, 1200), np.int32)
    for i, x in enumerate(range(100, 1100, 50), start=1):
        label[((yy - 200) / 9) ** 2 + ((xx - x) / 7) ** 2 < 1] = i
    whole, tiled = (
        measure_cells(frame_of(label), tile_rectangles(label.shape, tile, 64), 0.0)["round_trip_iou"].to_numpy()
        for tile in (0, 256)
    )
    assert 0.7 < whole.mean() < 0.97 and (tiled > 0.999).all()


REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).resolve().parents[2] / "../shared/data"))


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real frames at {REALDATA} (HELA_REALDATA)")
def test_a_crowded_real_frame_takes_a_moment() -> None:
    config = DatasetRecipe(path="Fluo-N2DL-HeLa", field_of_interest=25, offset=32768.0)
    reader = open_dataset(config, REALDATA)
    frame = reader.read(reader.entries[-1])
    tiles = tile_rectangles((700, 1100), 512, 64)
    table, seconds = measure_cells(frame, tiles, 32768.0), []
    for _ in range(3):
        start = time.process_time()
        table = measure_cells(frame, tiles, 32768.0)
        seconds.append(time.process_time() - start)
    assert table.num_rows == 136 and min(table["mean_intensity"].to_pylist()) > 0
    assert min(seconds) < 0.5  # of processor time; 0.06 s on an idle core
