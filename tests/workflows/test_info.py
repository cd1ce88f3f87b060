from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hela_store.errors import RunError, StoreError
from hela_store.runs.default import default_run
from hela_store.runs.folder import new_run
from hela_store.segmentation.config import FORMS
from hela_store.store.store import Store
from hela_store.workflows.info import info
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


def test_before_the_first_embed(tmp_path: Path) -> None:
    drawn = SyntheticConfig(frames=4, shape=(64, 64), cells=3)
    found = info(new(tmp_path / "s", NewConfig.of(dataset="synthetic", synthetic=drawn)).store)
    assert (found.frames, found.cells, found.views_planned, found.views_done) == (0, 0, None, 0)
    assert found.scale is None and found.runs == () and not found.split
    assert "run `hela-store embed`" in dict(found.facts())["views"]


def test_what_is_in_a_store(embedded: Path) -> None:
    found = info(Store.open(embedded))
    assert (found.frames, found.labelled, found.blank) == (8, 8, 0)
    assert (found.views_planned, found.views_done) == (8, 8)
    assert found.keys == {found.encoder["key"]: 8}
    assert found.split == {"train": 4, "val": 1, "test": 1, "gap": 2}
    assert dict(found.facts())["split"] == "train 4, val 1, test 1; 2 unused"
    assert found.cells == Store.open(embedded).sql("select count(*) from cells").fetchall()[0][0]
    assert found.scale is not None and found.scale.round_trip_whole > 0.9
    assert found.bytes["arrays.zarr"] > 8 * 1_000_000
    assert json.loads(json.dumps(found.to_json()))["views_done"] == 8


def test_other_keys_changed_recipes_and_unfinished_runs(store: Store) -> None:
    recipe = store.path / "store.toml"
    new_run(store.path, "evaluate", {"encoder": store.key}).close()
    recipe.write_text(recipe.read_text().replace("high = 99.8", "high = 99.0"))
    found = info(Store.open(store.path))
    assert found.views_planned is None and found.views_done == 0
    assert found.keys == {store.key: 8} and found.encoder["key"] != store.key
    assert len(found.unfinished) == 1
    facts = dict(found.facts())
    assert facts["other key"] == f"{store.key}: 8 views" and found.unfinished[0] in facts["unfinished"]


def test_a_damaged_run_is_named(store: Store) -> None:
    run = new_run(store.path, "finetune", {"encoder": store.key, "prompt": "box"})
    run.publish()
    with pytest.raises(StoreError, match=f"run {run.id} is damaged: its log holds no result"):
        info(store)
    (store.path / "runs" / run.id / "config.json").write_text("{")
    with pytest.raises(RunError, match=run.id):
        info(store)
    shutil.rmtree(store.path / "runs" / run.id)
    assert info(store).runs == ()


def test_it_loads_no_torch(scored: Path) -> None:
    code = (
        "import sys, hela_store as hs; found = hs.info(hs.Store.open(sys.argv[1])).to_json(); assert found['runs']\n"
        "assert not {'torch', 'dask'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, scored], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_info_names_the_runs_that_evaluate_and_segment_take(scored: Path) -> None:
    store = Store.open(scored)
    found = info(store)
    taken = {form: default_run(store.path, store.key, form) for form in FORMS}
    assert found.default_runs == {form: run.id if run else None for form, run in taken.items()}


def test_a_detector_has_no_decoder_and_a_default_run_says_what_it_was_fine_tuned_for(store: Store) -> None:
    new_run(store.path, "detector", {"encoder": store.key, "split": "train"}).publish()
    found = info(store)
    assert [line.checkpoint for line in found.runs] == [None]
    tuned = replace(found.runs[0], run="r", kind="finetune", prompt="box")
    facts = dict(replace(found, runs=(tuned,), default_run="r", default_runs={"box": "r", "point": "r"}).facts())
    assert facts["- for box"] == "r" and facts["- for point"] == "r, fine-tuned for box"
