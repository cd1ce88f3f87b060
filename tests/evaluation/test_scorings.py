"""How often test was scored: over all stores of a user, with damaged runs named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.sampled import SampleConfig, score_sample
from hela_store.evaluation.scorings import count_scorings
from hela_store.store.store import Store

TEST = EvaluateConfig(prompts=("box-exact",), prompt_seeds=1, window=8)


def test_another_store_of_the_same_frames_goes_on_counting(embedded: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache/test_scorings.jsonl"
    for name in "ab":
        shutil.copytree(embedded, tmp_path / name)
    one, two = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    run = evaluate(one, None, TEST).run
    assert (count_scorings(one, file).here, count_scorings(one, file).everywhere) == (1, 1)
    evaluate(two, None, TEST)
    evaluate(two, None, EvaluateConfig(prompts=("box-exact",), prompt_seeds=1, window=8, split="val"))
    found = count_scorings(two, file)
    assert (found.here, found.everywhere) == (1, 2)
    assert str(found).startswith(
        "This store's test set has been scored once,\nand its frames 2 times in all your stores"
    )
    found = count_scorings(one, file, [run])
    assert (found.here, found.everywhere) == (1, 3), "scores against other labels count, too"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum("frames" in line for line in lines) == 1 and len(lines) == 4


def test_points_of_a_study_of_budgets_are_counted_apart(embedded: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache/test_scorings.jsonl"
    for name in "ab":
        shutil.copytree(embedded, tmp_path / name)
    one, two = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    for budget in (5, 10):
        score_sample(one, None, SampleConfig(cells=2), kind="budget", about={"budget": budget})
    assert str(count_scorings(one, file)).startswith("This store's test set has been scored 0 times and at 2 points of")
    assert evaluate(two, None, TEST).test_scorings == 1
    assert str(count_scorings(two, file)) == (
        "This store's test set has been scored once,\nand its frames once and at 2 points in all your stores together."
    )
    assert evaluate(one, None, TEST).test_scorings == 1
    assert one.sql("SELECT scorings, points FROM test_scorings").fetchall() == [(1, 2)]
    found = count_scorings(one, file)
    assert (found.here, found.points, found.everywhere, found.points_everywhere) == (1, 2, 2, 2)


def test_a_damaged_run_is_named_not_left_out(store: Store, tmp_path: Path) -> None:
    run = evaluate(store, None, TEST).run
    (store.path / "runs" / run / "config.json").write_text("{")
    again = evaluate(store, None, TEST)
    assert again.test_scorings == 1 and again.uncounted == (run,)
    found = count_scorings(store, tmp_path / "cache/scorings.jsonl")
    assert found.damaged == (run,) and run in found.notes()[0] and "hela-store verify" in found.notes()[0]


@pytest.mark.parametrize("content", ["no json\n", '{"id": 3}\n'])
def test_a_file_that_cannot_be_used_is_said_and_the_stores_own_count_stands(
    store: Store, tmp_path: Path, content: str
) -> None:
    evaluate(store, None, TEST)
    file = tmp_path / "scorings.jsonl"
    file.write_text(content)
    found = count_scorings(store, file)
    assert (found.here, found.everywhere) == (1, None) and "line 1 is damaged" in found.problem
    assert file.read_text() == content and str(found) == "This store's test set has been scored once."
    (tmp_path / "file").write_text("")
    blocked = count_scorings(store, tmp_path / "file/scorings.jsonl")
    assert blocked.everywhere is None and len(blocked.notes()) == 1
