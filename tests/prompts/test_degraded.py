from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from cells import crowd
from scipy import ndimage

from hela_store.base.rng import generator
from hela_store.metrics.overlap import overlap
from hela_store.prompts.context import CellContext, cell_contexts
from hela_store.prompts.degraded import BINS, REDRAWS, DrawnMask, _draw, _noise_at, draw_degraded_mask


@pytest.fixture(scope="module")
def cells() -> list[CellContext]:
    return list(cell_contexts(crowd(), {label: f"01/t000#{label}" for label in range(1, 13)}))


@pytest.fixture(scope="module")
def drawn(cells: list[CellContext]) -> list[tuple[CellContext, DrawnMask]]:
    return [(cell, draw_degraded_mask(generator(cell.cell, seed), cell)) for cell in cells for seed in range(40)]


def test_each_falls_into_its_bin(drawn: list[tuple[CellContext, DrawnMask]]) -> None:
    missed = 0
    for cell, mask in drawn:
        low, high = BINS[mask.bin]
        score = overlap(mask.mask, cell.mask, mask.origin, cell.origin).iou
        assert mask.prompt_iou == score
        assert 0 <= mask.redraws < REDRAWS
        missed += not low <= score < high
    assert missed <= len(drawn) // 100


def test_bins_have_equal_shares_and_a_mean_near_0_65(drawn: list[tuple[CellContext, DrawnMask]]) -> None:
    counts = Counter(mask.bin for _, mask in drawn)
    assert min(counts.values()) > 0.7 * len(drawn) / 5
    assert np.mean([mask.prompt_iou for _, mask in drawn]) == pytest.approx(0.65, abs=0.02)


def test_masks_are_one_piece_without_holes_inside_the_frame(drawn: list[tuple[CellContext, DrawnMask]]) -> None:
    height, width = crowd().shape
    for _, found in drawn:
        (x, y), (rows, columns) = found.origin, found.mask.shape
        assert found.mask.dtype == bool
        assert found.mask.any(axis=0).all()
        assert 0 <= x <= x + columns <= width
        assert 0 <= y <= y + rows <= height
        assert ndimage.label(found.mask)[1] == 1
        filled = ndimage.binary_fill_holes(found.mask, structure=np.ones((3, 3)))
        assert np.array_equal(filled, found.mask)


def test_there_are_merges_and_cuts(drawn: list[tuple[CellContext, DrawnMask]]) -> None:
    events = Counter(mask.event for _, mask in drawn)
    assert events["merge"] > 0
    assert 0.05 < (events["merge"] + events["cut"]) / len(drawn) < 0.3
    for cell, mask in drawn:
        if mask.event == "merge":
            others = (cell.labels != 0) & (cell.labels != cell.label)
            assert overlap(mask.mask, others, mask.origin, cell.origin).intersection > 0


@pytest.mark.parametrize("scale", [0.4, 1.0, 4.0])
def test_the_noise_has_the_rules_rms_and_correlation_length(scale: float) -> None:
    (cell,) = cell_contexts(crowd(scale), {6: "c"})
    fields, lags = [], []
    lag = round(0.25 * cell.diameter)
    for key in range(30):
        draws = _draw(generator("noise", key), cell, 8)
        period = draws.noise.shape[2] * draws.step
        noise = _noise_at(draws, np.arange(draws.noise.shape[1] * draws.step), np.arange(period))
        fields.append((noise**2).mean())
        lags.append((noise * np.roll(noise, lag, axis=2)).mean())
    assert np.sqrt(np.mean(fields)) == pytest.approx(0.08 * cell.diameter, rel=0.05)
    expected = np.exp(-0.5 * (lag / (0.25 * cell.diameter)) ** 2)
    assert np.mean(lags) / np.mean(fields) == pytest.approx(expected, abs=0.08)


def test_offset_and_shift_are_the_rules(cells: list[CellContext]) -> None:
    cell = cells[5]
    draws = [_draw(generator("draw", key), cell, 32) for key in range(40)]
    offsets = np.concatenate([draw.offset for draw in draws]) / cell.diameter
    shifts = np.concatenate([draw.shift for draw in draws]) / cell.diameter
    assert offsets.min() >= -0.15
    assert offsets.max() <= 0.15
    assert offsets.std() == pytest.approx(0.3 / np.sqrt(12), rel=0.06)
    assert shifts.std(axis=0) == pytest.approx([0.08, 0.08], rel=0.06)
    events = np.concatenate([(draw.neighbour > 0) | np.isfinite(draw.cut_reach) for draw in draws])
    assert events.mean() == pytest.approx(0.2, abs=0.04)


def test_big_cells_get_the_same_kind_of_masks() -> None:
    cells = list(cell_contexts(crowd(5.0), {label: f"big#{label}" for label in (2, 6, 11)}))
    for cell in cells:
        for index, (low, high) in enumerate(BINS):
            found = draw_degraded_mask(generator("big", cell.cell, index), cell, bin=index)
            assert found.bin == index
            assert low <= found.prompt_iou < high


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 12), (3, 3)])
def test_the_nearest_is_kept_where_no_draw_falls_into_the_bin(shape: tuple[int, int]) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[20 : 20 + shape[0], 15 : 15 + shape[1]] = 1
    (cell,) = cell_contexts(labels, {1: "tiny"})
    for index in range(len(BINS)):
        found = draw_degraded_mask(generator("tiny", index), cell, bin=index)
        assert found.mask.any()
        assert found.prompt_iou == overlap(found.mask, cell.mask, found.origin, cell.origin).iou


def test_a_thin_line_between_the_coarse_grid_is_no_accident() -> None:
    labels = np.zeros((60, 460), np.int32)
    labels[31, 21:441] = 1
    labels[33:50, 25:430] = 2
    (cell,) = cell_contexts(labels, {1: "line"})
    for seed in range(5):
        assert draw_degraded_mask(generator("line", seed), cell).mask.any()
