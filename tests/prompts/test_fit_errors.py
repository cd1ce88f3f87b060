"""An error model that is fitted to drawn masks is the one that they were drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from cells import crowd

from hela_store.base.rng import generator
from hela_store.prompts.context import cell_contexts
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.prompts.error_model import GENERIC, ErrorModel
from hela_store.prompts.fit_errors import error_pairs, fit_errors, measure

MILD = ErrorModel(offset=(0.02, 0.1), noise=0.03, shift=0.05, merge=0.0, cut=0.0, bins=((0.0, 1.0),))


def tool(truth: np.ndarray, model: ErrorModel, frame: int) -> np.ndarray:
    masks = np.zeros_like(truth)
    cells = {int(label): f"01/t{frame:03d}#{label}" for label in np.unique(truth) if label}
    for cell in cell_contexts(truth, cells):
        drawn = draw_degraded_mask(generator("tool", cell.cell), cell, model=model)
        (x, y), (rows, columns) = drawn.origin, drawn.mask.shape
        part = masks[y : y + rows, x : x + columns]
        part[drawn.mask & (part == 0)] = 100 + cell.label
    return masks


def test_a_fitted_model_is_the_one_behind_the_masks() -> None:
    truth = crowd(2.0)
    pairs = error_pairs((f"01/t{frame:03d}", truth, tool(truth, MILD, frame)) for frame in range(5))
    found = fit_errors(pairs)
    assert found.pairs == pairs.count == 60
    assert np.mean(found.offset) == pytest.approx(np.mean(MILD.offset), abs=0.02)
    assert found.shift == pytest.approx(MILD.shift, abs=0.015) and found.noise == pytest.approx(MILD.noise, abs=0.015)
    assert found.merge + found.cut < 0.1
    again = ErrorModel.of({**vars(found), "offset": list(found.offset), "bins": [list(b) for b in found.bins]})
    assert again == found and "measured on 60 masks and their labels" in str(found)


def test_merges_and_cuts_are_counted_apart() -> None:
    truth = crowd(2.0)
    masks = truth.copy()
    masks[truth == 2] = 1  # two cells of one number
    rows, columns = np.nonzero(truth == 7)
    masks[rows[columns > np.median(columns)], columns[columns > np.median(columns)]] = 0
    pairs = error_pairs([("01/t000", truth, masks)])
    assert (pairs.merged, pairs.cut, pairs.count) == (1, 1, 11)


def test_too_few_pairs_give_the_generic_model_and_perfect_masks_have_no_errors() -> None:
    truth = crowd()
    assert fit_errors(error_pairs([("01/t000", truth, truth)])) is GENERIC
    mask = truth == 5
    assert measure(np.pad(mask, 4), np.pad(mask, 4)) == pytest.approx((0, 0, 0, 0), abs=1e-6)
    perfect = fit_errors(error_pairs((f"01/t{n}", truth, truth) for n in range(3)))
    assert perfect.shift < 0.01 and perfect.noise < 0.01 and max(map(abs, perfect.offset)) < 0.02
