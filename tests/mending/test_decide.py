"""What becomes of masks, on drawn squares: splits, merges, overlaps; and when the gate lets an answer pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hela_store.base.rng import generator
from hela_store.errors import RunError
from hela_store.mending.answers import Answer, Piece, moved, pieces_of
from hela_store.mending.decide import Change, decide
from hela_store.mending.gate import HARM, LEAST, NOTICEABLE, Judged, fit_gate

SHAPE = (40, 60)


def square(x: int, y: int, width: int, height: int | None = None) -> Piece:
    return Piece(mask=np.ones((height or width, width), bool), origin=(x, y))


def answer(old: Piece, new: Piece, predicted: float = 0.9, rest: Answer | None = None) -> Answer:
    signs = {"agreement": new.iou(old), "steadiness": 0.9, "contrast": 0.1}
    return Answer(old=old, new=new, tile=0, predicted_iou=predicted, rest=rest, **signs)


def decided(
    answers: dict[int, Answer], apply: bool = False, sure: dict[int, float] | None = None
) -> tuple[np.ndarray, dict[int, Change]]:
    probabilities = dict.fromkeys(answers, 0.9) | (sure or {})
    how: dict[str, Any] = {"threshold": 0.5, "sure_from": 0.8, "split_merge": apply, "shape": SHAPE, "free": 90}
    label, changes = decide(answers, probabilities, **how)
    for change in changes:
        assert ((label == change.new_label) & (label > 0)).sum() == change.mask.area
    return label, {change.label or change.new_label: change for change in changes}


def test_a_doubtful_gain_and_an_empty_answer_keep_the_mask() -> None:
    answers = {3: answer(square(2, 2, 8), square(3, 3, 9)), 7: answer(square(20, 2, 8), square(20, 2, 8))}
    answers[7] = replace(answers[7], new=Piece(mask=np.zeros((0, 0), bool), origin=(0, 0)))
    label, changes = decided(answers, sure={3: 0.4, 7: 0.0})
    assert [changes[number].action for number in (3, 7)] == ["kept", "kept"]
    assert "doubtful: probability 0.40, needed 0.50" in changes[3].reason and "empty" in changes[7].reason
    assert np.array_equal(np.argwhere(label == 3)[0], (2, 2)) and (label == 7).sum() == 64


def test_two_masks_that_are_answered_with_one_cell_are_merged_when_asked_for() -> None:
    whole = square(5, 5, 20)
    answers = {4: answer(square(5, 5, 9, 20), whole), 9: answer(square(14, 5, 11, 20), whole, 0.95)}
    label, changes = decided(answers)
    assert {change.action for change in changes.values()} == {"kept"} and set(np.unique(label)) == {0, 4, 9}
    assert [(changes[number].proposal, changes[number].partner) for number in (4, 9)] == [("merge", 9), ("merge", 4)]
    label, changes = decided(answers, apply=True)
    assert set(np.unique(label)) == {0, 9} and (label == 9).sum() == 400
    assert changes[4].new_label == 0 and changes[4].partner == 9 and changes[9].action == "merged"


def test_an_answer_that_strays_to_a_neighbour_is_no_merge() -> None:
    cell = square(5, 5, 20)
    answers = {1: answer(square(6, 6, 18), cell), 2: answer(square(26, 5, 8), cell)}
    label, changes = decided(answers, apply=True)
    assert (changes[1].action, changes[2].action) == ("mended", "kept") and changes[2].proposal == ""
    assert "the cell of mask 1" in changes[2].reason and (label == 2).sum() == 64


def test_a_mask_that_is_answered_with_two_cells_is_split_when_asked_for() -> None:
    both, left, right = square(5, 5, 30, 12), square(5, 5, 14, 12), square(20, 5, 15, 12)
    answers = {5: answer(both, left, rest=answer(square(20, 5, 15, 12), right))}
    label, changes = decided(answers)
    assert (changes[5].action, changes[5].proposal) == ("kept", "split") and (label == 5).sum() == both.area
    label, changes = decided(answers, apply=True)
    assert set(np.unique(label)) == {0, 5, 90} and (label == 90).sum() == right.area
    assert changes[5].action == changes[90].action == "split" and changes[90].label == 0
    # what another mask stands for is no piece of this one
    answers[8] = answer(square(22, 6, 12, 10), right)
    assert {change.action for change in decided(answers, apply=True)[1].values()} == {"mended"}


def test_the_higher_predicted_iou_wins_and_too_small_a_rest_gives_way() -> None:
    answers = {1: answer(square(2, 2, 10), square(2, 2, 12), 0.7), 2: answer(square(14, 2, 10), square(13, 2, 12), 0.9)}
    label, changes = decided(answers)
    assert (label == 2).sum() == 144 and (label == 1).sum() == 132 and changes[1].action == "mended"
    answers[2] = answer(square(14, 2, 10), square(8, 2, 17, 12), 0.9)
    label, changes = decided(answers)
    assert (changes[1].action, changes[2].action) == ("kept", "mended")
    assert "other masks hold too much" in changes[1].reason and (label == 1).sum() == 100


def test_moved_masks_stay_in_the_frame_and_have_pixels() -> None:
    for mask in (square(0, 0, 1), square(0, 30, 12, 10), square(50, 28, 10, 12)):
        for one in moved(mask, SHAPE):
            (x, y), (rows, columns) = one.origin, one.mask.shape
            assert one.area and min(x, y) >= 0 and x + columns <= SHAPE[1] and y + rows <= SHAPE[0]


def test_numbers_of_any_size_are_masks() -> None:
    label = np.zeros(SHAPE, np.int64)
    label[3:5, 4:8], label[10:12, 0:3] = 2**31 - 1, 7
    assert {value: piece.area for value, piece in pieces_of(label).items()} == {7: 6, 2**31 - 1: 8}


def judged(count: int, noise: float) -> list[Judged]:
    """Masks of which those that the answer agrees with are mostly good already."""
    rng, found = generator("judged"), []
    for unit in range(count):
        before = float(rng.uniform(0.4, 1.0))
        after = float(np.clip(0.92 + rng.normal(0, noise), 0, 1))
        one = answer(square(0, 0, 4), square(0, 0, 4), after)
        one = replace(one, agreement=min(before, 0.97))
        found.append(Judged(answer=one, before=before, after=after, unit=unit, own=False))
    return found


@pytest.mark.parametrize("noise", [0.02, 0.15])
def test_the_gate_makes_few_masks_worse(noise: float) -> None:
    gate = fit_gate(judged(600, noise))
    others = judged(1200, noise)[600:]
    passed = [p >= gate.threshold for p in gate.probabilities([one.answer for one in others])]
    worse = sum(p and one.after < one.before - NOTICEABLE for p, one in zip(passed, others, strict=True)) / len(others)
    assert gate.worse <= HARM and worse <= 4 * HARM
    assert gate.after > gate.before + 0.1 and sum(passed) > 0.4 * len(passed)


def test_with_one_track_the_gate_stays_shut_and_with_two_it_is_judged() -> None:
    rows = [replace(one, unit=0) for one in judged(200, 0.15)]
    with pytest.raises(RunError, match="all validation masks are of one track, so none can judge"):
        fit_gate(rows)
    two = [replace(one, unit=place % 2) for place, one in enumerate(rows)]
    assert fit_gate(two).judged == 200


def test_a_gate_needs_masks_with_and_without_a_gain() -> None:
    good = [one for one in judged(100, 0.01) if one.after > one.before]
    with pytest.raises(RunError, match=f"the gate cannot be calibrated: of {len(good)} .* expected at least {LEAST}"):
        fit_gate(good)
