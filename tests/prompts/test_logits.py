from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hela_store.prompts.logits import LOGIT, to_mask_logits


def inside(logits: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in np.argwhere(logits > 0)}


@settings(deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.tuples(st.integers(-60, 700), st.integers(-60, 700)),
    st.sampled_from([(0, 0, 512, 512), (100, 60, 512, 300), (0, 0, 200, 256), (17, 3, 100, 64)]),
)
def test_two_constant_logits_and_never_nothing(
    mask: np.ndarray, origin: tuple[int, int], view: tuple[int, int, int, int]
) -> None:
    logits = to_mask_logits(mask, origin, view)
    assert logits.shape == (256, 256)
    assert logits.dtype == np.float32
    assert set(np.unique(logits).tolist()) <= {-LOGIT, LOGIT}
    assert (logits > 0).any() == mask.any()
    step = max(view[2:]) / 256
    rows, columns = np.nonzero(logits > 0)
    if len(rows):
        assert rows.max() < np.ceil(view[3] / step)
        assert columns.max() < np.ceil(view[2] / step)


def test_half_of_the_area_decides() -> None:
    view = (0, 0, 1024, 1024)  # 4 px a grid pixel
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # exactly half
    mask[4:, 4:6] = True
    mask[4, 4] = False  # one less
    assert inside(to_mask_logits(mask, (40, 80), view)) == {(20, 10)}


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(4, 60), st.integers(4, 60))
def test_at_scale_one_it_is_the_mask(x: int, y: int, width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((height, width)) < 0.5
    mask[0, 0] = True
    frame = np.zeros((400, 400), bool)
    frame[y : y + height, x : x + width] = mask
    logits = to_mask_logits(mask, (x, y), (50, 30, 256, 256))
    if frame[30:286, 50:306].any():
        assert np.array_equal(logits > 0, frame[30:286, 50:306])


def test_a_small_view_is_enlarged() -> None:
    logits = to_mask_logits(np.ones((2, 3), bool), (10, 20), (0, 0, 64, 64))
    assert inside(logits) == {(row, column) for row in range(80, 88) for column in range(40, 52)}


@pytest.mark.parametrize(
    ("origin", "expected"),
    [((5, 9), (2, 1)), ((2000, 9), (2, 255)), ((-50, -50), (0, 0)), ((5, 5000), (255, 1))],
)
def test_a_vanishing_cell_keeps_its_nearest_position(origin: tuple[int, int], expected: tuple[int, int]) -> None:
    assert inside(to_mask_logits(np.ones((1, 1), bool), origin, (0, 0, 1024, 1024))) == {expected}


def test_other_values() -> None:
    logits = to_mask_logits(np.ones((9, 9), bool), (0, 0), (0, 0, 256, 256), value=3.0)
    assert (logits.min(), logits.max()) == (-3.0, 3.0)
