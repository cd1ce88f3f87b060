import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import forked
import psutil
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.base.executors import dask, outcome, processes
from hela_store.errors import ClusterError, PromptError, RecipeError
from hela_store.runs.default import default_run
from hela_store.runs.finished import claim_run
from hela_store.runs.folder import load_run, partial_runs, run_ids
from hela_store.sam.registry import ENCODERS
from hela_store.store.store import Store
from hela_store.studies.sweep import SweepRow, grid, sweep
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune, finished, resolve, run_config
from hela_store.training.settings import deciding
from stores import reseal

BASE = FinetuneConfig.of(steps=3, evaluate_every=2, cells=2, validation_cells=3, workers=0, window=8)
CODE = """
import sys
from hela_store.training.finetune import FinetuneConfig
from hela_store.store.store import Store
from hela_store.studies.sweep import sweep
base = FinetuneConfig.of(steps=3, evaluate_every=2, cells=2, validation_cells=3, workers=0, window=8)
sweep(Store.open(sys.argv[1]), base, {"lr": [1e-3], "seed": [0, 1]})
"""


def test_a_grid_is_checked_before_anything_runs() -> None:
    points = grid(BASE, {"lr": [1e-4, 1e-3], "loss": ["dice+bce", "boundary"]})
    assert [point for point, _ in points][1] == {"lr": 1e-4, "loss": "boundary"}
    assert points[3][1].optimiser.lr == 1e-3 and points[3][1].loss.name == "boundary"
    with pytest.raises(RecipeError, match="'rate' is unknown"):
        grid(BASE, {"rate": [1]})
    with pytest.raises(RecipeError, match="no values"):
        grid(BASE, {"lr": []})
    with pytest.raises(PromptError, match="scribble"):
        grid(BASE, {"prompt": ["box", "scribble"]})


def test_a_run_that_did_not_keep_its_schedule_is_not_taken_for_done(store: Store) -> None:
    """Earlier versions trained at a constant rate where a cosine without warm-up was asked for."""
    config = BASE.with_choices(warmup=0)
    run = load_run(store.path, finetune(store, config).run)
    assert finished(store, config) is not None
    rows = [row | {"lr": config.optimiser.lr} if "lr" in row else row for row in run.log()]
    (run.path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    reseal(run.path)
    assert finished(store, config) is None


@pytest.mark.ci
def test_a_killed_sweep_goes_on_and_loses_no_row(store: Store) -> None:
    command = [sys.executable, "-c", CODE, str(store.path)]
    with forked.Popen(command, cwd=Path(__file__).parents[2]) as victim:
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            if len(run_ids(store.path)) == 1 and partial_runs(store.path):
                os.kill(victim.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
    assert victim.returncode == -signal.SIGKILL, "it finished before it could be killed"
    (done,) = run_ids(store.path)
    told: list[SweepRow] = []
    rows = sweep(store, BASE, {"lr": [1e-3], "seed": [0, 1]}, report=told.append)
    assert rows == told and [row.choices for row in rows] == [{"lr": 1e-3, "seed": s} for s in (0, 1)]
    assert rows[0].run == done and sorted(row.run for row in rows) == run_ids(store.path)
    assert all(row.mean_iou is not None and row.verdict == "" for row in rows)
    assert sweep(store, BASE, {"lr": [1e-3], "seed": [0, 1]}) == rows and len(run_ids(store.path)) == 2
    assert store.sql("select count(*) from runs where kind = 'finetune'").fetchall() == [(2,)]


JOBS = """
import sys
from hela_store.base.executors import processes
from hela_store.training.finetune import FinetuneConfig
from hela_store.store.store import Store
from hela_store.studies.sweep import sweep
if __name__ == "__main__":
    base = FinetuneConfig.of(steps=3, evaluate_every=2, cells=2, validation_cells=3, workers=0, window=8)
    with processes(2) as executor:
        sweep(Store.open(sys.argv[1]), base, {"lr": [1e-3], "seed": [0, 1, 2, 3]}, executor=executor)
"""


@pytest.mark.slow
def test_side_by_side_killed_and_gone_on_with_every_point_runs_once(store: Store, tmp_path: Path) -> None:
    """SIGKILL of the parent ends its processes too; the same grid then does what is left, and nothing twice."""
    (tmp_path / "jobs.py").write_text(JOBS)
    command = [sys.executable, str(tmp_path / "jobs.py"), str(store.path)]
    helpers: list[psutil.Process] = []
    with forked.Popen(command, cwd=Path(__file__).parents[2]) as victim:
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            if run_ids(store.path) and len(partial_runs(store.path)) >= 1:
                helpers = psutil.Process(victim.pid).children(recursive=True)
                os.kill(victim.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
    assert victim.returncode == -signal.SIGKILL, "it finished before it could be killed"
    gone, alive = psutil.wait_procs(helpers, timeout=60)
    assert not alive and len(gone) >= 2
    done = run_ids(store.path)
    assert 1 <= len(done) < 4
    rows = sweep(store, BASE, {"lr": [1e-3], "seed": [0, 1, 2, 3]})
    assert sorted(row.run for row in rows) == run_ids(store.path) and set(done) < set(run_ids(store.path))
    assert [row.choices["seed"] for row in rows] == [0, 1, 2, 3] and partial_runs(store.path) == []
    assert store.sql("select count(*) from runs where kind = 'finetune'").fetchall() == [(4,)]


@pytest.mark.ci
def test_over_dask_and_what_another_process_works_on_comes_last(store: Store) -> None:
    distributed = pytest.importorskip("distributed")
    choices = {"seed": [0, 1]}
    wanted = deciding(run_config(resolve(store, BASE.with_choices(seed=0))))
    told: list[int] = []
    claimed = threading.Event()

    def elsewhere() -> None:
        with claim_run(store.path, "finetune", wanted, wait=False) as ours:
            assert ours
            claimed.set()
            _until(lambda: told == [1])

    other = threading.Thread(target=elsewhere)
    other.start()
    assert claimed.wait(60)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        dask(cluster.scheduler_address) as executor,
    ):
        rows = sweep(store, BASE, choices, executor=executor, report=lambda row: told.append(row.choices["seed"]))
    other.join()
    assert told == [1, 0] and [row.choices["seed"] for row in rows] == [0, 1] and all(row.run for row in rows)
    assert not list((store.path / "runs").glob(".*.lock"))


def _until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_an_unreachable_scheduler_and_a_dead_process_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("hela_store.base.executors.CONNECT_SECONDS", 1)
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"),
        dask("tcp://127.0.0.1:9"),
    ):
        pass
    with processes(1) as executor, pytest.raises(ClusterError, match="ended abruptly"):
        outcome(executor.submit(os._exit, 1))


@pytest.mark.ci
def test_latest_is_the_same_beginning_for_every_point_and_the_next_time(store: Store) -> None:
    first = finetune(store, BASE)
    rows = sweep(store, BASE, {"init": ["latest"], "seed": [1, 2]})
    assert [load_run(store.path, row.run).parent for row in rows] == [first.run, first.run]
    assert [row.run for row in sweep(store, BASE.with_choices(init=first.run), {"seed": [1, 2]})] == [
        row.run for row in rows
    ]


def test_a_point_that_fails_is_told_and_the_others_go_on(store: Store) -> None:
    rows = sweep(store, BASE, {"init": ["nosuch", None], "steps": [1]})
    assert "nosuch" in rows[0].error and not rows[0].run and rows[1].run


def test_an_official_checkpoint_is_looked_for_in_the_cache(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"no checkpoint"
    known = replace(ENCODERS["vit_b"], file="own.pth", hash=f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setitem(ENCODERS, "vit_b", known)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/own.pth").write_bytes(content)
    recipe = replace(store.recipe, encoder=replace(store.recipe.encoder, architecture="vit_b", sha256=""))
    config = BASE.with_choices(adapt="encoder", cut=0)
    (row,) = sweep(Store(store.path, recipe), config, {"seed": [0]}, cache_dir=tmp_path / "cache")
    assert row.error.startswith(f"{tmp_path / 'cache/own.pth'} is not a SAM checkpoint")


def test_the_command_says_which_run_is_the_default_now(store: Store) -> None:
    asked = "sweep --lr 1e-3 1e-4 --steps 1 --cells 2 --workers 0 --validation-cells 8 -s"
    done = CliRunner().invoke(main, [*asked.split(), str(store.path)])
    assert done.exit_code == 0, done.output
    head = next(line for line in done.output.splitlines() if "zero-shot IoU" in line)
    assert "mean change" in head and "best step" in head and "error" not in head
    said = done.output.replace("\n", " ")  # folded at 80 columns
    count = said.count("Best on validation for box")
    assert said.count("The default run for box is") == count
    assert said.count("; the best of 2, so this gain is too high on average)") == count
    found = default_run(store.path, store.key, "box")
    if count:
        assert f"The default run for box is {found.id if found else 'none: the zero-shot decoder'}." in said
