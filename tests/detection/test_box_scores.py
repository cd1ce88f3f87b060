"""Matching and scores against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hela_store.detection.box_scores import (
    FramePairs,
    average_precision,
    best_confidence,
    count,
    curve,
    mean_accuracy,
    recall_by,
)
from hela_store.images.rle import encode
from hela_store.metrics.matching import countable, mask_ious, match


def pairs(scores: list[float], ious: list[list[float]], counted: list[bool] | None = None) -> FramePairs:
    values = np.asarray(ious, float).reshape(len(scores), -1)
    return FramePairs(scores=np.asarray(scores), ious=values, counted=np.asarray(counted or [True] * len(scores), bool))


# two cells; the better detection of cell 0 also touches cell 1, a false one on nothing, and one where nobody looks
FRAME = pairs([0.9, 0.8, 0.7, 0.6], [[0.8, 0.6], [0.75, 0.0], [0.0, 0.0], [0.0, 0.1]], [True, True, True, False])


def test_greedy_would_lose_a_pair_the_assignment_keeps() -> None:
    found = match(FRAME.ious, 0.5)
    assert found.partner.tolist() == [1, 0, -1, -1]
    assert found.iou.tolist() == [0.6, 0.75, 0, 0]


def test_counts_at_two_ious() -> None:
    at = count([FRAME], 0.5, 0.5)
    assert (at.tp, at.fp, at.fn) == (2, 1, 0)  # the detection on invalid pixels counts neither way
    assert at.precision == pytest.approx(2 / 3) and at.recall == 1 and at.f1 == pytest.approx(0.8)
    strict = count([FRAME], 0.5, 0.7)
    assert (strict.tp, strict.fp, strict.fn) == (1, 2, 1)
    assert (at.sq, at.rq, at.pq) == pytest.approx((0.675, 0.8, 0.54)), "IoU 0.6 and 0.75, and one false"
    assert at.to_json()["pq"] == at.pq
    high = count([FRAME], 0.85, 0.5)
    assert (high.tp, high.fp, high.fn) == (1, 0, 1) and high.iou == pytest.approx(0.8)


def test_mean_accuracy_over_ious() -> None:
    """Pairs of 0.6 and 0.75 up to IoU 0.6 (2 of 3), one of 0.8 or 0.75 up to 0.8 (1 of 4), none above."""
    assert mean_accuracy([FRAME], 0.5) == pytest.approx((3 * 2 / 3 + 4 * 1 / 4 + 3 * 0) / 10)
    perfect = pairs([0.9, 0.9], [[1.0, 0.0], [0.0, 1.0]])
    assert mean_accuracy([perfect], 0.5) == 1 and count([perfect], 0.5, 0.5).pq == 1
    nothing = FramePairs(scores=np.zeros(0), ious=np.zeros((0, 2)), counted=np.zeros(0, bool))
    assert mean_accuracy([nothing], 0.5) == 0 == count([nothing], 0.5, 0.5).pq


def test_empty_frames_and_no_detections() -> None:
    empty, missed = pairs([0.9], [[]]), FramePairs(scores=np.zeros(0), ious=np.zeros((0, 0)), counted=np.zeros(0, bool))
    assert (count([empty], 0.5, 0.5).fp, count([empty], 0.5, 0.5).f1) == (1, 0)
    assert count([missed], 0.5, 0.5).precision == 0
    lost = FramePairs(scores=np.zeros(0), ious=np.zeros((0, 3)), counted=np.zeros(0, bool))
    assert count([lost], 0.5, 0.5).fn == 3


def test_the_curve_falls_and_the_best_confidence_is_its_top() -> None:
    rows = curve([FRAME])
    assert [row["recall"] for row in rows] == sorted((row["recall"] for row in rows), reverse=True)
    threshold, f1 = best_confidence([FRAME])
    assert 0.7 < threshold <= 0.8
    assert f1 == pytest.approx((count([FRAME], threshold, 0.5).f1 + count([FRAME], threshold, 0.7).f1) / 2)


def test_recall_of_groups() -> None:
    got = recall_by([FRAME], [{"first": np.array([True, False]), "both": np.array([True, True])}], 0.85)
    assert got["first"] == {"recall": 1.0, "n": 1}
    assert got["both"] == {"recall": 0.5, "n": 2}


@given(hnp.arrays(float, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.floats(0, 1)))
def test_matching_is_one_to_one_and_never_below_the_threshold(ious: np.ndarray) -> None:
    found = match(ious, 0.5)
    hit = found.partner[found.partner >= 0]
    assert len(set(hit.tolist())) == len(hit)
    assert (found.iou[found.partner >= 0] >= 0.5).all() and (found.iou[found.partner < 0] == 0).all()
    # no cell and detection that are both free could still be a pair
    free = np.setdiff1d(np.arange(ious.shape[1]), hit)
    assert not (ious[found.partner < 0][:, free] >= 0.5).any()


def test_average_precision_of_a_hand_worked_case() -> None:
    """Three cells; ranked hit (IoU 1), miss, hit (IoU 0.6). At 0.5 precision is 1 up to recall 1/3, 2/3 up to 2/3.

    COCO samples 101 recalls 0, 0.01, ... 1 and takes the greatest precision at or beyond each: 34 of them lie at or
    below 1/3 and 33 more at or below 2/3. At IoU above 0.6 only the first is a hit.
    """
    truth = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [100, 0, 110, 10]], float)
    boxes = np.array([[0, 0, 10, 10], [200, 200, 210, 210], [50, 50, 60, 56]], float)
    got = average_precision([(boxes, np.array([0.9, 0.8, 0.7]))], [truth], [np.ones(3, bool)])
    half, first = (34 * 1 + 33 * 2 / 3) / 101, 34 / 101
    assert got["ap50"] == pytest.approx(half)
    assert got["ap75"] == pytest.approx(first)
    assert got["ap50_95"] == pytest.approx((3 * half + 7 * first) / 10)  # 0.5, 0.55 and 0.6 hold the second hit
    # the false one lies where labels say nothing: precision stays 1
    left_out = average_precision([(boxes, np.array([0.9, 0.8, 0.7]))], [truth], [np.array([True, False, True])])
    assert left_out["ap50"] == pytest.approx(67 / 101)
    nothing = average_precision([(np.zeros((0, 4)), np.zeros(0))], [truth], [np.zeros(0, bool)])
    assert nothing["ap50"] == 0


def test_more_than_a_hundred_cells_a_frame_are_no_limit() -> None:
    x = np.arange(150) * 20.0
    truth = np.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    assert average_precision([(truth, np.linspace(1, 0.1, 150))], [truth], [np.ones(150, bool)])["ap50_95"] == 1


def test_mask_ious_and_who_can_be_false() -> None:
    label = np.zeros((20, 30), np.int32)
    label[2:6, 2:6], label[10:14, 20:24] = 3, 7
    mask = encode(np.ones((4, 2), bool), (2, 2), label.shape)
    assert mask_ious([mask, None], label, [3, 7]).tolist() == [[0.5, 0], [0, 0]]
    valid = np.zeros((20, 30), bool)
    valid[:, 10:] = True
    boxes = np.array([[0, 0, 8, 8], [6, 0, 14, 8], [2, 0, 13, 8], [25.5, 10, 30, 20]])
    assert countable(boxes, valid).tolist() == [False, True, False, True]
