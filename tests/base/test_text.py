"""Text for people: numbers of things, shares, and frames whose names have other numbers."""

from __future__ import annotations

import pytest

from hela_store.base.text import counted, own_numbers, percent
from hela_store.errors import SplitError
from hela_store.recipe.recipe import SplitRecipe
from hela_store.recipe.splits import assign


def test_one_thing_is_no_plural() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2, 1200)] == ["0 frames", "1 frame", "2 frames", "1,200 frames"]


def test_a_share_is_a_percentage_with_a_blank() -> None:
    assert percent(0.9604) == "96.0 %" and percent(0.5, 0) == "50 %"


def test_numbers_are_told_where_names_have_others() -> None:
    assert own_numbers([("t030", 0), ("t031", 1), ("t041", 2)]) == " (counted from 0: t030 is 0, t041 is 2)"
    assert own_numbers([("t000", 0), ("t001", 1)]) == own_numbers([("a", 0), ("b", 1)]) == own_numbers([]) == ""


def test_a_split_by_the_numbers_of_names_is_told_the_numbers_of_frames() -> None:
    frames = [(f"images/t{30 + time:03d}", "images", time) for time in range(12)]
    with pytest.raises(SplitError, match=r"images with 0-11 \(counted from 0: images/t030 is 0, images/t041 is 11\)"):
        assign(SplitRecipe(train="30-35", val="37-38", test="40-41"), frames)
