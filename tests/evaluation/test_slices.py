"""Parts of the cells on which a run is worse than its mean."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.errors import RecipeError
from hela_store.evaluation.config import PARTS, EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.evaluation.slices import Slice, corrected, slices
from hela_store.metrics.intervals import MARGIN, Interval, Units, part_interval
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


@pytest.fixture(scope="module")
def evaluated(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Return a store with one evaluation of all its frames, and no vectors."""
    path = tmp_path_factory.mktemp("slices") / "store"
    shutil.copytree(embedded, path)
    store = Store.open(path)
    return store, evaluate(store, None, EvaluateConfig(prompts=("box-exact",), split="all")).run


def test_a_run_is_looked_at_by_parts(evaluated: tuple[Store, str]) -> None:
    store, run = evaluated
    found = slices(store, run)
    total = store.sql("SELECT count(*) FROM cells").fetchall()[0][0]
    parts = {row.part: row for row in found.rows}
    assert set(parts) <= set(PARTS) and sum(parts[name].n for name in ("small", "medium", "large")) == total
    changes = [row.change.mean for row in found.rows]
    assert changes == sorted(changes) and all(row.word == "" for row in found.rows), "two blocks say nothing certain"
    for row in found.rows:
        assert row.mean - row.mean_all == pytest.approx(row.change.mean)
        assert row.low != row.low or row.low <= row.change.low, "a corrected interval is no narrower"
    one_training = any("one training" in note for note in found.notes)
    assert one_training == any(row.word for row in found.rows)
    with pytest.raises(RecipeError, match="hd95"):
        slices(store, run, metric="hd95")


def test_the_first_that_does_not_pass_ends_the_verdicts() -> None:
    def part(name: str, mean: float, error: float) -> Slice:
        half = 1.96 * error
        change = Interval(mean=mean, low=mean - half, high=mean + half, blocks=9, seeds=1, tracks=99, df=math.inf)
        about = {"prompt": "box", "part": name, "n": 9, "cells": 9, "mean": 0.5, "mean_all": 0.5 - mean}
        return Slice(change=change, low=change.low, high=change.high, word="undecided", **about)  # type: ignore[arg-type]

    rows = {
        row.part: row for row in corrected([part("a", -0.1, 0.01), part("b", -0.028, 0.0107), part("c", 0.0, 0.01)])
    }
    assert rows["a"].word == "worse" and rows["c"].word == "undecided"
    assert rows["b"].change.standing == "worse" and rows["b"].word == "undecided", "two are left, so it needs more"
    assert rows["b"].high > -MARGIN


def test_clusters_of_vectors_are_parts_where_there_are_vectors(evaluated: tuple[Store, str]) -> None:
    store, run = evaluated
    made = store.cell_vectors()
    like = [row for row in slices(store, run).rows if row.part.startswith("like ")]
    assert like and all(row.part.removeprefix("like ") in made.cells for row in like)
    done = CliRunner().invoke(main, ["slices", run, "-s", str(store.path)])
    assert done.exit_code == 0 and "Next: hela-store report" in done.output
    assert all(len(line) <= 80 for line in done.output.splitlines() if line.startswith(tuple(PARTS.values())))
    done = CliRunner().invoke(main, ["slices", made.runs[0], "-s", str(store.path)])
    assert done.exit_code == 1 and "has no cell with a score iou" in done.output and "evaluate -s" in done.output
    done = CliRunner().invoke(main, ["slices", "latest", "-s", str(store.path)])
    assert done.exit_code == 0 and f"report {run}" in done.output, "latest is the latest evaluation"
    done = CliRunner().invoke(main, ["slices", "nothing", "-s", str(store.path)])
    assert done.exit_code == 1 and "no run 'nothing'" in done.output
