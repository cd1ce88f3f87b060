import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hela_store.errors import PromptError, RecipeError
from hela_store.finetune import FinetuneConfig
from hela_store.runs import partial_runs, run_ids
from hela_store.store import Store
from hela_store.sweep import grid, sweep

BASE = FinetuneConfig(steps=3, evaluate_every=2, cells=2, validation_cells=3, workers=0, window=8)
CODE = """
import sys
from hela_store.finetune import FinetuneConfig
from hela_store.store import Store
from hela_store.sweep import sweep
base = FinetuneConfig(steps=3, evaluate_every=2, cells=2, validation_cells=3, workers=0, window=8)
sweep(Store.open(sys.argv[1]), base, {"lr": [1e-3], "seed": [0, 1]})
"""


def test_a_grid_is_checked_before_anything_runs() -> None:
    points = grid(BASE, {"lr": [1e-4, 1e-3], "loss": ["dice+bce", "boundary"]})
    assert [point for point, _ in points][1] == {"lr": 1e-4, "loss": "boundary"}
    assert points[3][1].lr == 1e-3 and points[3][1].loss == "boundary"
    with pytest.raises(RecipeError, match="'rate' is unknown"):
        grid(BASE, {"rate": [1]})
    with pytest.raises(RecipeError, match="no values"):
        grid(BASE, {"lr": []})
    with pytest.raises(PromptError, match="scribble"):
        grid(BASE, {"prompt": ["box", "scribble"]})


def test_a_killed_sweep_goes_on_and_loses_no_row(store: Store) -> None:
    command = [sys.executable, "-c", CODE, str(store.path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as victim:
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            if len(run_ids(store.path)) == 1 and partial_runs(store.path):
                os.kill(victim.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
    assert victim.returncode == -signal.SIGKILL, "it finished before it could be killed"
    (done,) = run_ids(store.path)
    told = []
    rows = sweep(store, BASE, {"lr": [1e-3], "seed": [0, 1]}, report=told.append)
    assert rows == told and [row.choices for row in rows] == [{"lr": 1e-3, "seed": s} for s in (0, 1)]
    assert rows[0].run == done and sorted(row.run for row in rows) == run_ids(store.path)
    assert all(row.mean_iou is not None and row.verdict for row in rows)
    assert sweep(store, BASE, {"lr": [1e-3], "seed": [0, 1]}) == rows and len(run_ids(store.path)) == 2
    assert store.sql("select count(*) from runs where kind = 'finetune'").fetchall() == [(2,)]


def test_a_point_that_fails_is_told_and_the_others_go_on(store: Store) -> None:
    rows = sweep(store, BASE, {"init": ["nosuch", None], "steps": [1]})
    assert "nosuch" in rows[0].error and not rows[0].run and rows[1].run
