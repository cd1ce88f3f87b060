from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hela_store.metrics.overlap import dice, equivalent_diameter, iou, overlap, skill, summary

MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def test_known_values() -> None:
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    a[0], b[0, 2:], b[1, 2:] = True, True, True
    assert iou(a, b) == pytest.approx(2 / 6)
    assert dice(a, b) == pytest.approx(4 / 8)


def test_nothing_is_never_rewarded() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert iou(empty, full) == dice(empty, full) == 0.0
    assert iou(empty, empty) == dice(empty, empty) == 0.0


@settings(deadline=None)
@given(MASKS)
def test_dice_follows_from_iou(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert iou(a, b) == iou(b, a)
    assert dice(a, b) == pytest.approx(2 * iou(a, b) / (1 + iou(a, b)))


@settings(deadline=None)
@given(
    hnp.arrays(bool, (4, 5)),
    hnp.arrays(bool, (3, 6)),
    st.tuples(st.integers(-8, 8), st.integers(-8, 8)),
    st.tuples(st.integers(-8, 8), st.integers(-8, 8)),
)
def test_crops_score_as_their_frame(
    a: np.ndarray, b: np.ndarray, origin_a: tuple[int, int], origin_b: tuple[int, int]
) -> None:
    frames = []
    for mask, (x, y) in ((a, origin_a), (b, origin_b)):
        frame = np.zeros((24, 24), bool)
        frame[y + 8 : y + 8 + mask.shape[0], x + 8 : x + 8 + mask.shape[1]] = mask
        frames.append(frame)
    shared = overlap(a, b, origin_a, origin_b)
    assert shared.iou == iou(*frames)
    assert shared.dice == dice(*frames)


def test_equivalent_diameter_of_a_disc() -> None:
    assert equivalent_diameter(math.pi * 10**2) == pytest.approx(20)


def test_skill() -> None:
    assert skill(0.9, 0.8) == pytest.approx(0.5)
    assert skill(0.8, 0.8) == 0
    assert skill(0.7, 0.8) < 0
    assert math.isnan(skill(1.0, 1.0))


def test_summary() -> None:
    found = summary([0.5, 0.0], [0.6, 0.0], [False, True])
    assert (found.n, found.mean_iou, found.mean_dice, found.empty) == (2, 0.25, 0.3, 0.5)
    assert math.isnan(summary([], [], []).mean_iou)
    with pytest.raises(ValueError, match="different lengths"):
        summary([0.5], [], [])
