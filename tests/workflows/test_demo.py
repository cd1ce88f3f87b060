from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from hela_store.errors import StoreError
from hela_store.runs.folder import list_runs
from hela_store.store.store import Store
from hela_store.workflows.demo import PROMPTS, demo

module = importlib.import_module("hela_store.workflows.demo")


@pytest.mark.ci
def test_a_second_demo_keeps_what_the_first_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    first = demo(store.path)
    assert [row.prompt for row in first.rows] == list(PROMPTS)
    assert first.reused == 0 and len(list_runs(store.path)) == 7
    assert all(row.n > 0 and 0 < row.image_free_iou <= 1 for row in first.rows)
    assert {row["prompt"] for row in first.answer} == set(PROMPTS)
    again = demo(store.path)
    assert again.reused == 7 and len(list_runs(store.path)) == 7
    assert (again.rows, again.answer) == (first.rows, first.answer)
    assert first.to_json()["rows"][0]["prompt"] == "box"


def test_the_demo_leaves_other_stores_alone(store: Store, tmp_path: Path) -> None:
    recipe = store.path / "store.toml"
    recipe.write_text(recipe.read_text().replace('path = "data"', 'path = "/elsewhere"'))
    before = sorted(store.path.rglob("*"))
    with pytest.raises(StoreError, match="not one of this demo; choose another folder with --out"):
        demo(store.path)
    assert sorted(store.path.rglob("*")) == before
