"""What commands print."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hela_store_cli.output import bars, echo_facts, echo_json, echo_table, plain


def test_plain_values_are_what_json_can_hold() -> None:
    value = {"a": (1, float("nan"), Decimal("3"), Decimal("0.5")), 2: Path("x"), "t": datetime(2026, 1, 2), "n": None}
    assert plain(value) == {"a": [1, None, 3, 0.5], "2": "x", "t": "2026-01-02 00:00:00", "n": None}


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"x": float("inf"), "ä": [1]})
    assert json.loads(capsys.readouterr().out) == {"x": None, "ä": [1]}


def test_a_piped_table_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["name", "iou", "n"], [["box", 0.91234, 7], ["point", None, 12], ["[bold]", 1e-9, 3]])
    assert capsys.readouterr().out.splitlines() == [
        "name       iou   n",
        "box     0.9123   7",
        "point           12",
        "[bold]   1e-09   3",
    ]


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_terminal_gets_a_drawn_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    echo_table(["n"], [[i] for i in range(501)])
    printed = capsys.readouterr()
    assert "┃" in printed.out and "499" in printed.out and "│ 500" not in printed.out
    assert "1 more rows" in printed.err


def test_facts_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_facts([("a", "1"), ("long", "2")])
    assert capsys.readouterr().out == "a     1\nlong  2\n"


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars([1, 2], total=2, what="embed")) == [1, 2]
    printed = capsys.readouterr()
    assert printed.out == "" and "embed: 100%" in printed.err
