import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.images import geometry as g


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(rows=st.integers(1, 1500), columns=st.integers(1, 1500), tile=st.integers(64, 600), overlap=st.integers(0, 63))
def test_tiles_cover_the_frame_with_the_overlap_asked_for(rows, columns, tile, overlap):
    tiles = g.tile_rectangles((rows, columns), tile, overlap)
    for axis, length in ((0, columns), (1, rows)):
        spans = sorted({(t[axis], t[axis] + t[axis + 2]) for t in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert {end - start for start, end in spans} == {min(tile, length)}
        shared = [a[1] - b[0] for a, b in itertools.pairwise(spans)]
        assert all(s >= overlap for s in shared)
        assert max(shared, default=0) - min(shared, default=0) <= 1
    assert tiles == sorted(tiles, key=lambda t: (t[1], t[0]))


def test_tile_0_and_a_tile_larger_than_the_frame():
    assert g.tile_rectangles((700, 1100), 0, 64) == [(0, 0, 1100, 700)]
    assert g.tile_rectangles((700, 1100), 1024, 64) == [(0, 0, 1024, 700), (76, 0, 1024, 700)]
    assert g.tile_rectangles((512, 512), 512, 64) == [(0, 0, 512, 512)]


def test_no_more_tiles_than_needed():
    assert len(g.tile_rectangles((700, 1100), 512, 64)) == 2 * 3


def test_a_prompt_is_scored_where_it_is_most_interior():
    tiles = [(0, 0, 60, 50), (40, 0, 60, 50)]
    assert g.scoring_tile((41, 10, 49, 20), tiles, (50, 100)) == 0
    assert g.scoring_tile((51, 10, 59, 20), tiles, (50, 100)) == 1
    assert g.scoring_tile((45, 10, 55, 20), tiles, (50, 100)) == 0  # a tie
    # edges of the frame do not count: touching the left one is interior
    assert g.scoring_tile((0, 0, 5, 5), tiles, (50, 100)) == 0
    assert g.scoring_tile((70.0, 0.0, 70.0, 0.0), tiles, (50, 100)) == 1
    # cut by both: the one that cuts less
    assert g.scoring_tile((35, 10, 64, 20), tiles, (50, 100)) == 0
    assert g.scoring_tile((5, 5, 6, 6), [(0, 0, 100, 50)], (50, 100)) == 0


def test_holds_whole():
    tile = (10, 20, 30, 40)
    assert g.holds_whole((10, 20, 40, 60), tile)
    assert not g.holds_whole((9, 20, 40, 60), tile)
    assert not g.holds_whole((10, 20, 40, 61), tile)


def test_points_go_where_the_resize_puts_their_pixel():
    rect = (100, 40, 64, 32)
    view = np.zeros((32, 64), np.float32)
    view[10, 20] = 1
    rows, columns = g.resized_shape((32, 64))
    assert (rows, columns) == (512, 1024)
    big = torch.nn.functional.interpolate(torch.from_numpy(view)[None, None], (rows, columns), mode="area")[
        0, 0
    ].numpy()
    where_rows, where_columns = np.nonzero(big)
    x, y = g.frame_to_sam((120, 50), rect)
    assert (x, y) == (where_columns.mean(), where_rows.mean())
    box = g.box_to_sam((120, 50, 121, 51), rect)
    assert box.tolist() == [
        where_columns.min() - 0.5, where_rows.min() - 0.5, where_columns.max() + 0.5, where_rows.max() + 0.5
    ]  # fmt: skip
    assert g.sam_to_frame((x, y), rect).tolist() == [120, 50]
    assert g.to_view([[120, 50], [100, 40]], rect).tolist() == [[20, 10], [0, 0]]
    assert g.view_scale(rect) == 16


@pytest.mark.parametrize(
    ("diameter", "shape", "tile"),
    [
        (24.6, (700, 1100), 512),  # Fluo-N2DL-HeLa
        (120.0, (512, 512), 0),  # DIC-C2DH-HeLa
        (52.0, (700, 1100), 0),
        (18.0, (700, 1100), 384),
        (12.0, (700, 1100), 256),
        (4.0, (700, 1100), 256),
        (4.0, (200, 200), 0),
        (18.0, (300, 400), 384),
        (None, (512, 512), 0),
        (None, (300, 513), 512),
    ],
)
def test_auto_tile(diameter, shape, tile):
    assert g.auto_tile(diameter, shape) == tile


def test_overlap_for():
    assert g.overlap_for([]) == 64
    assert g.overlap_for(np.full(1000, 30)) == 30
    assert g.overlap_for(np.r_[np.full(9999, 30), 500]) < 40
    assert g.overlap_for([250], tile=256) == 192


def disc(radius, centre, size):
    y, x = np.mgrid[:size, :size]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def test_grid_round_trip():
    mask = disc(12, (30.3, 29.6), 64)
    whole = g.grid_round_trip(mask, (0, 0, 1100, 700), (200, 300))
    tiled = g.grid_round_trip(mask, (100, 100, 512, 512), (200, 300))
    small = g.grid_round_trip(mask, (150, 250, 256, 256), (200, 300))
    assert 0.9 < whole < tiled < small == 1.0
    assert g.grid_round_trip(np.zeros((4, 4), bool), (0, 0, 512, 512)) == 0
    # nothing but the cell decides, neither the crop nor, by whole grid pixels, where it lies
    close = mask[17:43, 17:44]
    assert g.grid_round_trip(close, (100, 100, 512, 512), (217, 317)) == pytest.approx(tiled)
    assert g.grid_round_trip(mask, (102, 96, 512, 512), (200, 300)) == pytest.approx(tiled)


def test_grid_round_trip_is_that_of_torch():
    mask = disc(9, (25.2, 31.7), 64)
    view = torch.zeros(1, 1, 512, 512)
    view[0, 0, 100:164, 140:204] = torch.from_numpy(mask)
    grid = torch.nn.functional.interpolate(view, (256, 256), mode="area")
    back = torch.nn.functional.interpolate(grid, (512, 512), mode="bilinear", align_corners=False)[0, 0] > 0.5
    truth = view[0, 0] > 0
    expected = float((back & truth).sum() / (back | truth).sum())
    assert g.grid_round_trip(mask, (0, 0, 512, 512), (140, 100)) == pytest.approx(expected, abs=0.003)
