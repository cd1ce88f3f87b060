"""Each rule by which results and truth become pairs, on a case small enough to work by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hela_store.images.labels import shared_pixels
from hela_store.metrics.matching import best_total, majority, most_pairs


def strip(*parts: tuple[int, int]) -> np.ndarray:
    """One row of pixels: so many of each label."""
    return np.array([[label for label, count in parts for _ in range(count)]], np.int32)


def test_shared_pixels_of_any_label_values() -> None:
    pairs = shared_pixels(strip((7, 4), (0, 2), (2_000_000_000, 4)), strip((3, 5), (0, 1), (3, 1), (9, 3)))
    assert pairs.first_labels.tolist() == [7, 2_000_000_000] and pairs.first_areas.tolist() == [4, 4]
    assert pairs.second_labels.tolist() == [3, 9] and pairs.second_areas.tolist() == [6, 3]
    assert list(zip(pairs.first, pairs.second, pairs.shared, strict=True)) == [(0, 0, 4), (1, 0, 1), (1, 1, 3)]
    assert pairs.ious.tolist() == [4 / 6, 1 / 9, 3 / 4]
    assert pairs.table().tolist() == [[4 / 6, 0], [1 / 9, 3 / 4]]
    nothing = shared_pixels(strip((0, 3)), strip((1, 3)))
    assert (len(nothing.first_labels), len(nothing.second_labels), len(nothing.shared)) == (0, 1, 0)


def test_two_small_pairs_against_one_large_one() -> None:
    """0.9 alone, or 0.4 and 0.3: the number of pairs comes first in one rule, the total in the other."""
    ious = np.array([[0.9, 0.4], [0.3, 0.0]])
    assert most_pairs(ious).partner.tolist() == [1, 0] and most_pairs(ious).iou.tolist() == [0.4, 0.3]
    assert best_total(ious).partner.tolist() == [0, -1] and best_total(ious).iou.tolist() == [0.9, 0]
    assert most_pairs(ious, 0.4).partner.tolist() == [0, -1], "0.3 makes no pair any more, and 0.9 is more than 0.4"
    assert most_pairs(ious, 0.95).partner.tolist() == [-1, -1]
    assert best_total(ious, 0.35).partner.tolist() == [0, -1] and best_total(ious, 0.95).partner.tolist() == [-1, -1]
    assert best_total(ious - 0.35, 0.04).partner.tolist() == [0, -1]


def test_equal_numbers_of_pairs_are_told_apart_by_their_total() -> None:
    """0.6 + 0.6 is more than 0.7 + 0.4, though 0.7 is the best pair of all, which a greedy rule takes first."""
    ious = np.array([[0.7, 0.6], [0.6, 0.4]])
    assert most_pairs(ious).partner.tolist() == best_total(ious).partner.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_nothing_makes_no_pair(shape: tuple[int, int]) -> None:
    for found in (most_pairs(np.zeros(shape)), best_total(np.zeros(shape))):
        assert found.partner.tolist() == [-1] * shape[0] and found.iou.tolist() == [0] * shape[0]


def test_the_majority_is_more_than_half_of_the_first() -> None:
    truth = strip((1, 4), (2, 4), (3, 4))
    found = strip((5, 7), (6, 1), (6, 2), (0, 2))  # 5 holds all of 1 and three of four px of 2, 6 half of 3
    pairs = majority(shared_pixels(truth, found))
    assert [
        (pairs.first_labels[i], pairs.second_labels[j]) for i, j in zip(pairs.first, pairs.second, strict=True)
    ] == [
        (1, 5),
        (2, 5),
    ]
    assert pairs.shared.tolist() == [4, 3]
    assert len(pairs.first_labels) == 3, "objects without a match are still counted"
