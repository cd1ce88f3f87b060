"""A cell is read from the tile in which it is most interior, pixel by pixel."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from hela_store.evaluation.frames import FrameCells, Tile
from hela_store.store.records import CellRecord
from hela_store.vectors.pool import by_tile, pooled, position_counts

TILES = [Tile(view=name, rect=(x0, 0, 64, 48), row=row) for row, (name, x0) in enumerate([("left", 0), ("right", 36)])]


def record(label: int, box: tuple[int, int, int, int]) -> CellRecord:
    given: dict[str, Any] = dict.fromkeys([field.name for field in fields(CellRecord)], 0)
    given |= {"cell": f"a/b#{label}", "frame": "a/b", "label": label}
    return CellRecord(**given | dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)))


@pytest.fixture
def frame() -> FrameCells:
    label = np.zeros((48, 100), np.int32)
    label[10:20, 40:52] = 1  # whole in both tiles, further inside of the left one
    label[10:20, 54:66] = 2  # cut by the left tile
    label[30:34, 2:8] = label[30:34, 90:98] = 3  # in two pieces, wider than a tile
    cells = [record(1, (40, 10, 52, 20)), record(2, (54, 10, 66, 20)), record(3, (2, 30, 98, 34))]
    return FrameCells(frame="a/b", split="train", shape=(48, 100), label=label, cells=cells, tiles=TILES)


def test_the_tile_is_the_one_in_which_the_cell_is_most_interior(frame: FrameCells) -> None:
    homes = {tile.view: [cell.label for cell in cells] for tile, cells in by_tile(frame, frame.cells).items()}
    assert homes == {"left": [1, 3], "right": [2]}


def test_a_cell_without_a_pixel_in_the_middle_of_its_box_is_read_where_most_of_it_is(frame: FrameCells) -> None:
    middle = [Tile(view="middle", rect=(20, 0, 60, 48), row=2), *TILES]
    third = FrameCells(**{field.name: getattr(frame, field.name) for field in fields(FrameCells)} | {"tiles": middle})
    assert [tile.view for tile in by_tile(third, frame.cells[2:])] == ["right"]


def test_the_mean_is_that_of_the_positions_of_its_pixels(frame: FrameCells) -> None:
    embedding = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    rect = TILES[1].rect
    vectors = pooled(embedding, rect, frame.label, frame.cells[:2])
    for cell, vector in zip(frame.cells, vectors, strict=False):
        rows, columns = np.nonzero(frame.label == cell.label)
        shown = columns >= rect[0]
        assert position_counts(frame.label, [cell], rect).sum() == shown.sum()
        # a view of 64 px has one position a pixel
        by_hand = embedding[:, rows[shown], columns[shown] - rect[0]].astype(np.float64).mean(1)
        assert np.allclose(vector, by_hand, atol=1e-5)
