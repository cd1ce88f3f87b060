from __future__ import annotations

import numpy as np

from hela_store.datasets.gold import gold_over_reference
from hela_store.images.labels import apply_field_of_interest, compact, field_of_interest, valid_pixels


def canvas(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """A 40 x 40 label image of rectangles (label, row0, row1, col0, col1)."""
    label = np.zeros((40, 40), np.int32)
    for value, r0, r1, c0, c1 in boxes:
        label[r0:r1, c0:c1] = value
    return label


def test_gold_takes_the_place_and_number_of_the_reference_it_matches() -> None:
    reference = canvas((7, 0, 10, 0, 10), (9, 20, 30, 20, 30))
    gold = canvas((1, 1, 10, 1, 12))
    label, valid = gold_over_reference(gold, reference)
    assert set(np.unique(label)) == {0, 7, 9}
    assert np.array_equal(label == 7, gold == 1)
    assert np.array_equal(label == 9, reference == 9)
    assert label[0, 0] == 0  # left over of the replaced reference nucleus
    assert valid.all()


def test_half_of_the_gold_is_not_a_match() -> None:
    reference = canvas((7, 0, 20, 0, 10))
    gold = canvas((1, 0, 10, 5, 15))  # exactly half of it lies in the reference one
    label, valid = gold_over_reference(gold, reference)
    assert set(np.unique(label)) == {0, 7, 8}
    assert np.array_equal(label == 8, gold == 1)  # added with a new number
    assert np.array_equal(label == 7, (reference == 7) & (gold == 0))  # what is left of it
    assert valid.all()


def test_gold_without_reference_is_added_with_a_number_of_its_own() -> None:
    label, _ = gold_over_reference(canvas((7, 30, 35, 30, 35)), canvas((7, 0, 10, 0, 10)))
    assert np.array_equal(label, canvas((7, 0, 10, 0, 10), (8, 30, 35, 30, 35)))


def test_two_gold_in_one_reference_share_its_place_but_not_its_number() -> None:
    reference = canvas((5, 0, 10, 0, 20))
    gold = canvas((1, 0, 10, 0, 8), (2, 0, 10, 9, 20))
    label, valid = gold_over_reference(gold, reference)
    assert np.array_equal(label == 5, gold == 2)  # the larger overlap keeps the number
    assert np.array_equal(label == 6, gold == 1)
    assert label[0, 8] == 0 and valid.all()


def test_reference_that_held_more_than_the_gold_leaves_ground_that_is_not_valid() -> None:
    reference = canvas((5, 0, 10, 0, 30))
    gold = canvas((1, 0, 10, 0, 12))
    label, valid = gold_over_reference(gold, reference)
    assert np.array_equal(label == 5, gold == 1)
    assert np.array_equal(~valid, (reference == 5) & (gold == 0))


def test_a_reference_fragment_under_a_large_gold_nucleus_disappears() -> None:
    reference = canvas((5, 0, 4, 0, 10), (6, 30, 34, 30, 34))
    gold = canvas((1, 1, 20, 0, 10))
    label, _ = gold_over_reference(gold, reference)
    assert np.array_equal(label, canvas((7, 1, 20, 0, 10), (6, 30, 34, 30, 34)))


def test_gold_over_reference_with_large_label_values() -> None:
    reference, gold = canvas((2_000_000_000, 0, 10, 0, 10)), canvas((1_500_000_000, 0, 10, 0, 9))
    label, _ = gold_over_reference(gold, reference)
    assert np.array_equal(label, np.where(gold > 0, 2_000_000_000, 0))
    ids, index = compact(reference)
    assert ids.tolist() == [0, 2_000_000_000] and index.max() == 1


def test_objects_wholly_in_the_band_lose_their_label_others_stay_whole() -> None:
    label = canvas((1, 0, 5, 0, 5), (2, 3, 8, 10, 15), (3, 20, 25, 20, 25))
    kept = apply_field_of_interest(label, 5)
    assert np.array_equal(kept, np.where(label == 1, 0, label))
    assert apply_field_of_interest(label, 0) is label
    assert not apply_field_of_interest(label, 20).any()


def test_valid_pixels() -> None:
    label = canvas((2, 3, 8, 10, 15))
    inner = field_of_interest((40, 40), 5)
    assert inner.sum() == 900
    assert np.array_equal(valid_pixels(label, (40, 40), 5, partial=False), inner | (label > 0))
    assert np.array_equal(valid_pixels(label, (40, 40), 5, partial=True), label > 0)
    assert not valid_pixels(None, (40, 40), 5, partial=False).any()
    assert not field_of_interest((40, 40), 20).any()
