"""What is done stays done: with the catalog in another program's hands, given twice, and started twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import forked
import pytest
from console import COMMAND, Run, environment

from hela_store.base.locks import claim
from hela_store.runs.folder import list_runs, partial_runs, run_ids
from hela_store.store.store import Store

QUICK = ("--steps", "4", "--evaluate-every", "2", "--cells", "2", "--workers", "0", "--validation-cells", "4")
ZERO = ("evaluate", "--zero-shot", "--prompt", "box-exact")


@pytest.fixture
def held(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let another process hold the store's catalog open for writing; kept where the commands look for it."""
    monkeypatch.setattr("hela_store.catalog.index.FOREIGN_SECONDS", 0.3)
    store.sql("SELECT 1")
    code = "import duckdb, sys\ncon = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, str(store.path / "catalog.duckdb")]
    with forked.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(duckdb.IOException, match="lock"):
            duckdb.connect(str(store.path / "catalog.duckdb"), read_only=True)
        yield store.path
        other.kill()


@pytest.mark.ci
def test_a_catalog_in_other_hands_costs_no_result(run: Run, held: Path) -> None:
    tuned = json.loads(run("finetune", *QUICK, "--json", folder=held).stdout)
    scored = run(*ZERO, folder=held)
    (mine,) = (one for one in list_runs(held) if one.kind == "evaluate")
    assert f"run {mine.id}, checkpoint zero-shot" in scored.stdout and "mean IoU" in scored.stdout
    assert "This store's test set has been scored once" in scored.stdout
    assert f"run {mine.id} is complete; indexing is pending" in scored.stderr
    assert "catalog.duckdb is open for writing in another program" in scored.stderr
    again = json.loads(run(*ZERO, "--json", folder=held).stdout)
    assert (again["run"], again["reused"], again["test_scorings"]) == (mine.id, True, 1)
    free = run("baseline", "image-free", "--prompt", "box", "--prompt-seeds", 1, folder=held)
    assert "indexing is pending" in free.stderr and "mean IoU" in free.stdout
    assert [one.kind for one in list_runs(held)] == ["finetune", "evaluate", "baseline"]
    assert tuned["run"] in run_ids(held)
    assert "is open for writing in another program" in run("sql", "SELECT 1", folder=held, code=1).stderr


@pytest.mark.slow
def test_a_full_disk_for_the_catalog_costs_no_result(store: Store) -> None:
    """No file may grow beyond 128 KiB, as on a disk that is almost full: the run fits, the catalog does not."""
    limited = ["bash", "-c", 'ulimit -f 128; exec "$@"', "bash", str(COMMAND), *ZERO]
    done = subprocess.run(limited, cwd=store.path, env=environment(), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "indexing is pending" in done.stderr and "mean IoU" in done.stdout
    (mine,) = run_ids(store.path)
    assert store.sql("SELECT run FROM cell_metrics").fetchall()[0] == (mine,)


@pytest.mark.ci
def test_what_is_finished_is_named_and_not_done_again(run: Run, store: Store) -> None:
    tuned = json.loads(run("finetune", *QUICK, "--json", folder=store.path).stdout)
    again = run("finetune", *QUICK, "--workers", "1", "--json", folder=store.path)
    assert f"note: run {tuned['run']} has done just this before" in again.stderr and "--fresh" in again.stderr
    assert json.loads(again.stdout) == tuned | {"reused": True}
    assert "change of IoU" in run("finetune", *QUICK, folder=store.path).stdout
    first = json.loads(run(*ZERO, "--json", folder=store.path).stdout)
    second = run(*ZERO, "--json", folder=store.path)
    assert json.loads(second.stdout) == first | {"reused": True} and first["run"] in second.stderr
    assert first["test_scorings"] == 1
    assert json.loads(run(*ZERO, "--fresh", "--json", folder=store.path).stdout)["test_scorings"] == 2
    fresh = json.loads(run("finetune", *QUICK, "--fresh", "--json", folder=store.path).stdout)
    assert fresh["run"] != tuned["run"] and fresh["tuned"] == tuned["tuned"]


@pytest.mark.slow
def test_two_equal_finetunes_share_one_run_and_a_killed_one_is_gone_on_with(store: Store) -> None:
    command = [str(part) for part in (COMMAND, "finetune", *QUICK, "--json")]
    how: dict[str, Any] = {
        "cwd": store.path,
        "env": environment(),
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    with forked.Popen(command, **how) as first:
        deadline = time.monotonic() + 120
        while not partial_runs(store.path) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)
        with forked.Popen(command, **how) as second:
            assert second.stderr is not None
            said = ""
            while f"by process {first.pid} on" not in said and time.monotonic() < deadline:
                said += second.stderr.read(1)
            os.kill(first.pid, signal.SIGKILL)
            out, _ = second.communicate(timeout=120)
    assert second.returncode == 0 and len(run_ids(store.path)) == 1
    assert json.loads(out)["run"] == run_ids(store.path)[0]


@pytest.mark.slow
def test_one_waits_for_the_other_and_takes_its_run(store: Store) -> None:
    command = [str(part) for part in (COMMAND, "finetune", *QUICK, "--json")]
    how: dict[str, Any] = {"cwd": store.path, "env": environment(), "text": True, "stdout": subprocess.PIPE}
    with forked.Popen(command, **how) as first, forked.Popen(command, **how) as second:
        results = [json.loads(each.communicate(timeout=200)[0]) for each in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0] and len(run_ids(store.path)) == 1
    assert {result["run"] for result in results} == set(run_ids(store.path))
    assert sorted(result["reused"] for result in results) == [False, True]
    assert partial_runs(store.path) == [] and not list((store.path / "runs").glob(".*"))


def test_a_claim_says_who_has_it(tmp_path: Path) -> None:
    told: list[str] = []

    def progress(iterable, *, total, what):
        told.append(what)
        first.__exit__(None, None, None)
        return iter(iterable)

    first = claim(tmp_path, "work", wait=False)
    assert first.__enter__()
    with claim(tmp_path, "work", wait=False) as ours:
        assert not ours
    with claim(tmp_path, "work", wait=True, progress=progress) as ours:
        assert ours and told == [told[0]] and f"by process {os.getpid()} on" in told[0]
    assert not list(tmp_path.iterdir())
