"""What is proposed for a suspect becomes an event that does it, on drawn squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hela_store.audit.proposal import accepted, kept
from hela_store.errors import LabelError
from hela_store.images.rle import encode
from hela_store.labels.changes import apply_event

SHAPE = (40, 60)


def squares(**places: tuple[int, int, int, int]) -> np.ndarray:
    """Return labels, int32, (row, col): ``c3=(x, y, width, height)`` is a rectangle of label 3."""
    label = np.zeros(SHAPE, np.int32)
    for name, (x, y, width, height) in places.items():
        label[y : y + height, x : x + width] = int(name[1:])
    return label


def suspect(kind: str, cell: int | None, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """Return a row for whose label, or place, a rectangle is proposed."""
    rle = encode(np.ones((height, width), bool), (x, y), SHAPE).counts
    about = {"run": "r", "suspect": "000007", "rank": 7, "frame": "01/t000", "kind": kind, "reason": "odd: x"}
    corners = {"x0": x, "y0": y, "x1": x + width, "y1": y + height}
    return about | corners | {"cell": None if cell is None else f"01/t000#{cell}", "rle": rle}


def after(row: dict[str, Any], label: np.ndarray) -> np.ndarray:
    event = accepted(row, label, "ann", lambda: 50)
    assert event.reason.startswith("suspect 7 of r accepted: odd") and event.who == "ann"
    event.check_fits(SHAPE)
    return apply_event(label, event)


def test_a_missing_label_is_added_where_no_other_label_is() -> None:
    label = squares(c3=(20, 5, 10, 10))
    now = after(suspect("missing", None, 12, 5, 10, 10), label)
    np.testing.assert_array_equal(now == 3, label == 3)
    assert (now == 50).sum() == 80
    with pytest.raises(LabelError, match="other labels of frame 01/t000 hold the place of suspect 7 by now"):
        accepted(suspect("missing", None, 18, 5, 10, 10), label, "ann", lambda: 50)


def test_two_cells_under_one_label_are_split() -> None:
    now = after(suspect("merged", 3, 5, 5, 14, 12), squares(c3=(5, 5, 30, 12)))
    assert (now == 3).sum() == 14 * 12 and (now == 50).sum() == 15 * 12
    # a rest that is small is no cell
    now = after(suspect("merged", 3, 5, 5, 26, 12), squares(c3=(5, 5, 30, 12)))
    assert set(np.unique(now)) == {0, 3} and (now == 3).sum() == 26 * 12


def test_parts_of_one_cell_are_merged_and_a_neighbour_keeps_its_pixels() -> None:
    label = squares(c3=(5, 5, 9, 20), c4=(14, 5, 11, 20), c9=(24, 5, 16, 20))
    now = after(suspect("split", 3, 5, 5, 20, 20), label)
    assert set(np.unique(now)) == {0, 3, 9} and (now == 3).sum() == 19 * 20
    np.testing.assert_array_equal(now == 9, label == 9)


@pytest.mark.parametrize("kind", ["shifted", "ragged", "crescent"])
def test_another_mask_replaces_the_label(kind: str) -> None:
    now = after(suspect(kind, 3, 8, 5, 10, 10), squares(c3=(5, 5, 10, 10)))
    np.testing.assert_array_equal(now == 3, squares(c3=(8, 5, 10, 10)) == 3)


def test_debris_is_erased_and_a_wrong_number_is_left_to_a_person() -> None:
    label = squares(c3=(5, 5, 10, 10))
    assert not after(suspect("debris", 3, 5, 5, 10, 10) | {"rle": None}, label).any()
    with pytest.raises(LabelError, match=r"no mask is proposed for suspect 7 \(identity\); correct the label by hand"):
        accepted(suspect("identity", 3, 5, 5, 10, 10) | {"rle": None}, label, "ann", lambda: 50)


def test_a_kept_label_is_as_it_was_and_says_so() -> None:
    label = squares(c3=(5, 5, 10, 10), c4=(15, 5, 10, 10))
    event = kept(suspect("ragged", 3, 8, 5, 10, 10), label, "ann")
    np.testing.assert_array_equal(apply_event(label, event), label)
    assert event.reason == "suspect 7 of r kept: odd: x" and event.cells == (3,)
    with pytest.raises(LabelError, match="a place without a label"):
        kept(suspect("missing", None, 8, 5, 10, 10), label, "ann")


def test_a_label_that_is_gone_and_a_damaged_mask_are_one_line() -> None:
    row, label = suspect("ragged", 3, 8, 5, 10, 10), squares(c4=(5, 5, 10, 10))
    with pytest.raises(LabelError, match="has no label 3 any more, so suspect 7 is settled"):
        kept(row, label, "ann")
    with pytest.raises(LabelError, match="has no label 3 any more, so suspect 7 is settled"):
        accepted(row, label, "ann", lambda: 50)
    with pytest.raises(LabelError, match="the mask that is proposed for suspect 7 does not fit"):
        accepted(suspect("ragged", 3, 8, 5, 9, 9) | {"rle": "0o"}, squares(c3=(5, 5, 9, 9)), "ann", lambda: 50)
