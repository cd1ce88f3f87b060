"""Parts of the cells on which a run is worse than its mean."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.errors import RecipeError, RunError
from hela_store.evaluation.config import PARTS, EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.slices import slices
from hela_store.metrics.intervals import Units, part_interval
from hela_store.runs.folder import latest
from hela_store.workbench.store import Store


def units(tracks: int, frames: int) -> Units:
    frame, track = (axis.ravel() for axis in np.mgrid[:frames, :tracks])
    return Units(track=track, frame=frame, block=frame // 5, seed=np.zeros(len(track), np.int64))


def test_the_interval_of_a_part_holds_the_truth_and_forgets_what_part_and_rest_share() -> None:
    rng, found, about = np.random.default_rng(0), [], units(60, 20)
    part = about.track < 15
    for _ in range(200):
        own, shared, noise = (rng.normal(0, 0.05, size) for size in (60, 20, 1200))
        values = 0.8 + own[about.track] + 3 * shared[about.frame] + noise - 0.04 * part
        found.append(part_interval(values, about, part))
    truth = -0.04 * 0.75
    inside = np.mean([row.low <= truth <= row.high for row in found])
    assert 0.91 <= inside <= 1.0
    assert np.median([row.high - row.low for row in found]) < 0.1, "frames move part and rest alike"
    assert found[0].tracks == 15 and found[0].df <= 14


def test_a_run_is_looked_at_by_parts(scored: Path) -> None:
    store, run = Store.open(scored), latest(scored, "evaluate")
    found = slices(store, run.id)
    assert {row.prompt for row in found.rows} == {"box", "point", "mask"} and {r.part for r in found.rows} <= set(PARTS)
    total = store.sql(f"SELECT count(*) FROM cell_metrics WHERE run = '{run.id}' AND prompt = 'box'").fetchone()[0]
    box = {row.part: row for row in found.rows if row.prompt == "box"}
    assert sum(box[name].n for name in ("small", "medium", "large")) == total
    assert all(row.word == "" for row in found.rows), "one test frame says nothing certain"
    with pytest.raises(RecipeError, match="hd95"):
        slices(store, run.id, metric="hd95")


def test_clusters_of_vectors_are_parts_where_there_are_vectors(embedded: Path, tmp_path: Path) -> None:
    shutil.copytree(embedded, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    run = evaluate(store, None, EvaluateConfig(prompts=("box-exact",), split="all")).run
    assert not any(row.part.startswith("like ") for row in slices(store, run).rows)
    store.cell_vectors()
    found = slices(store, run)
    like = [row for row in found.rows if row.part.startswith("like ")]
    assert (
        like
        and sum(row.n for row in like) <= found.rows[0].n * 8
        and like[0].part.removeprefix("like ") in {cell for (cell,) in store.sql("SELECT cell FROM cells").fetchall()}
    )


def test_bad_input_is_one_line(scored: Path) -> None:
    with pytest.raises(RunError, match="no run 'nothing'"):
        slices(Store.open(scored), "nothing")
    tuned = latest(scored, "finetune").id
    done = CliRunner().invoke(main, ["slices", tuned, "-s", str(scored)])
    assert done.exit_code == 1 and "has no cell with a score iou" in done.output and "evaluate -s" in done.output
