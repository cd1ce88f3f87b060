"""Values as JSON can hold them, and messages of one line."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from hela_store.base.plain import plain
from hela_store.base.text import first_line


def test_plain_values_are_what_json_can_hold() -> None:
    value = {"a": (1, float("nan"), Decimal("3"), Decimal("0.5")), 2: Path("x"), "t": datetime(2026, 1, 2), "n": None}
    assert plain(value) == {"a": [1, None, 3, 0.5], "2": "x", "t": "2026-01-02 00:00:00", "n": None}


def test_what_json_does_not_know_is_left_to_the_caller() -> None:
    def refuse(value: object) -> object:
        raise TypeError(type(value).__name__)

    assert plain({"a": [1, "b", float("inf")]}, refuse) == {"a": [1, "b", None]}
    with pytest.raises(TypeError, match="Decimal"):
        plain([{"deep": Decimal("3")}], refuse)
    # what the caller makes of a value is made plain as well
    assert plain({1, 2}, lambda value: tuple(sorted(value))) == [1, 2]


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == first_line(ValueError("\nafter an empty line")) == "ValueError"
