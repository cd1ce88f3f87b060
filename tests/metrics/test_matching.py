"""Each rule by which results and truth become pairs, on a case small enough to work by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hela_store.images.labels import shared_pixels
from hela_store.metrics.matching import majority, match


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


def test_tiny_overlaps_take_no_partner_from_a_good_pair() -> None:
    """0.9 alone is the answer; two pairs of 0.01 would be more pairs and no result."""
    assert match(np.array([[0.9, 0.01], [0.01, 0.0]])).partner.tolist() == [0, -1]
    assert match(np.array([[0.9, 0.01], [0.01, 0.0]])).iou.tolist() == [0.9, 0]
    assert match(np.array([[0.05]])).partner.tolist() == [-1]


def test_the_greatest_total_of_the_pairs_that_share_enough() -> None:
    ious = np.array([[0.9, 0.4], [0.3, 0.0]])
    assert match(ious).partner.tolist() == [0, -1] and match(ious).iou.tolist() == [0.9, 0], "0.9 is more than 0.7"
    ious = np.array([[0.7, 0.6], [0.6, 0.4]])
    assert match(ious).partner.tolist() == [1, 0], "1.2 is more than 1.1, which a greedy rule takes"
    assert match(ious, 0.65).partner.tolist() == [0, -1]
    assert match(ious, 0.95).partner.tolist() == [-1, -1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_nothing_makes_no_pair(shape: tuple[int, int]) -> None:
    found = match(np.zeros(shape))
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
