"""What commands print."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import pytest
from hela_store_cli.main import main
from hela_store_cli.options import typed
from hela_store_cli.output import (
    FULL,
    STORE_GIVEN,
    bars,
    echo_facts,
    echo_json,
    echo_scores,
    echo_table,
    note_informed,
    say,
    with_store,
)

from hela_store.store.store import Store


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"x": float("inf"), "ä": [1]})
    assert json.loads(capsys.readouterr().out) == {"x": None, "ä": [1]}


def test_a_piped_table_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["name", "iou", "n"], [["box", 0.91234, 7], ["point", None, 12], ["[bold]", 1e-9, 3]])
    assert capsys.readouterr().out.splitlines() == [
        "name      iou   n",
        "box     0.912   7",
        "point          12",
        "[bold]  1e-09   3",
    ]


def test_zero_shot_scores_say_what_the_encoder_was_made_beside(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    note_informed(store)
    assert capsys.readouterr().err == ""
    named = replace(store.recipe, dataset=replace(store.recipe.dataset, path="/data/DIC-C2DH-HeLa"))
    note_informed(Store(store.path, named))
    assert capsys.readouterr().err.startswith("note: zero-shot: nano's training crops were changed after results")


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["a", "b"], [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_terminal_gets_a_drawn_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    echo_table(["n"], [[i] for i in range(501)])
    printed = capsys.readouterr()
    assert "┃" in printed.out and "499" in printed.out and "│ 500" not in printed.out
    assert "1 more rows" in printed.err


@pytest.mark.parametrize("wide", [False, True])
def test_a_drawn_table_fits_the_terminal(
    wide: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80" if wide else "21")
    echo_table(["name", "n"], [["a long name", 1], ["two\nlines", 12.5], ["", None]])
    rows = ["┃ name        ┃      n ┃", "│ a long name │      1 │", "│ two         │ 12.500 │"]
    folded = ["┃ name     ┃      n ┃", "│ a long   │      1 │", "│ name     │        │", "│ two      │ 12.500 │"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0][0] == "┏" and printed[2][0] == "┡" and printed[-1][0] == "└"
    assert len({len(line) for line in printed}) == 1
    shown = [line for line in printed if line[0] in "┃│"]
    assert shown[: 3 if wide else 4] == (rows if wide else folded)


def test_facts_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_facts([("a", "1"), ("long", "2")])
    assert capsys.readouterr().out == "a     1\nlong  2\n"


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars([1, 2], total=2, what="embed")) == [1, 2]
    printed = capsys.readouterr()
    assert printed.out == "" and "embed: 100%" in printed.err


def test_no_work_shows_no_bar_and_an_inner_bar_vanishes(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars([], total=0, what="draw")) == [] and capsys.readouterr().err == ""
    for _ in bars([1], total=1, what="frames"):
        assert list(bars([1, 2], total=2, what="tiles")) == [1, 2]
    shown = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    assert (
        [line for line in shown if "100%" in line] == [line for line in shown if line.startswith("frames: 100%")] != []
    )


SCORE = {"n": 273, "mean_iou": 0.93812, "mean_dice": 0.9671, "empty": 0.0, "skill": float("nan"), "mean_spill": 0.00001}


def test_scores_fit_80_columns_and_full_prints_all(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(main) as context:
        echo_scores("prompt", [("mask-previous", SCORE)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].split() == ["mask-previous", "273", "0.938", "0.967", "–", "0", "of", "273"]
        assert lines[2] == "–: there is no such value" and max(map(len, lines)) <= 80
        context.meta[FULL] = True
        echo_scores("prompt", [("mask-previous", SCORE)])
        assert "spill" in capsys.readouterr().out


def test_commands_in_messages_carry_the_store_of_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "run `hela-store embed` or `hela-store detect train --seed 1`, not `hela-store new` nor `hela-store sql -s b`"
    )
    assert with_store(text) == text
    with click.Context(main) as context:
        context.meta[STORE_GIVEN] = "my store"
        assert with_store(text) == (
            "run `hela-store embed -s 'my store'` or `hela-store detect train -s 'my store' --seed 1`, "
            "not `hela-store new` nor `hela-store sql -s b`"
        )
        assert typed("report") == "hela-store report -s 'my store'"
        echo_facts([("calibration", "none; `hela-store detect calibrate` makes one")])
    assert "`hela-store detect calibrate -s 'my store'`" in " ".join(capsys.readouterr().out.split())


def test_sentences_fit_80_characters_and_commands_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    say("a " * 60)
    say(f"To do it: hela-store sql {'x ' * 60}".strip())
    say("To do it: hela-store embed")
    echo_facts([("on disk", "a " * 60), ("path", "/" + "x" * 90)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:2])) <= 80
    assert lines[2:5] == ["To do it:", "hela-store sql " + ("x " * 60).strip(), "To do it: hela-store embed"]
    assert [line[:11] for line in lines[5:]] == ["on disk  a ", "         a ", "path     /x"] and len(lines[6]) <= 80


def test_scores_with_long_names_leave_out_what_matters_least(capsys: pytest.CaptureFixture[str]) -> None:
    score = {"n": 10, "mean_iou": 0.9, "mean_dice": 0.9, "image_free_iou": 0.5, "skill": 0.8, "empty": 0.0}
    echo_scores("hard cells", [("box", score | {"mean_hd95": 1.5}), ("mask@0.45, in no training frame", score)])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert max(map(len, (heading, *rows))) <= 80
    assert "mean IoU" in heading and "naive guess" in heading and "HD95" not in heading
