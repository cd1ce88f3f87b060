"""What killed processes leave is cleared by the next command, and nothing that a living one uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forked
import pytest

from hela_store.base.files import clear_temporary, write_atomic
from hela_store.base.scratch import clear_scratch, scratch_folder
from hela_store.runs.finished import claim_run
from hela_store.runs.folder import new_run, partial_runs, run_ids
from hela_store.runs.leftovers import STATE, clear_run_leftovers

HOLD = """
import sys, time
from hela_store.base.scratch import scratch_folder
from hela_store.runs.finished import claim_run
from hela_store.runs.folder import new_run
with claim_run(sys.argv[1], "evaluate", {"a": 1}), scratch_folder() as spill:
    (spill / "rows.tmp").write_text("rows")
    run = new_run(sys.argv[1], "evaluate", {})
    print(spill, flush=True)
    time.sleep(600)
"""


def test_what_a_living_process_uses_stays_and_goes_when_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with forked.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        spill = Path(other.stdout.readline().strip())
        (name,) = partial_runs(tmp_path)
        claims = sorted(path.name for path in (tmp_path / "runs").glob(".*") if path.is_file())
        assert len(claims) == 2
        clear_run_leftovers(tmp_path)
        clear_scratch()
        assert partial_runs(tmp_path) == [name] and (spill / "rows.tmp").exists()
        assert sorted(path.name for path in (tmp_path / "runs").glob(".*") if path.is_file()) == claims
        os.kill(other.pid, signal.SIGKILL)
    with claim_run(tmp_path, "evaluate", {"b": 1}):
        assert partial_runs(tmp_path) == []
    clear_scratch()
    assert not spill.exists() and list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_can_be_gone_on_with_stays(tmp_path: Path) -> None:
    kept, lost = new_run(tmp_path, "finetune", {}), new_run(tmp_path, "finetune", {})
    write_atomic(kept.path / STATE, b"state")
    (kept.path / f".{STATE}.abcd_123").write_bytes(b"torn")
    for run in (kept, lost):
        run.close()
    clear_run_leftovers(tmp_path)
    assert partial_runs(tmp_path) == [kept.id]


def test_a_published_run_holds_no_temporary_file(tmp_path: Path) -> None:
    run = new_run(tmp_path, "finetune", {})
    (run.path / f".{STATE}.abcd_123").write_bytes(b"torn")
    published = run.publish()
    assert sorted(path.name for path in published.iterdir()) == ["config.json", "manifest.json"] and run_ids(
        tmp_path
    ) == [run.id]
    (published / f".{STATE}.abcd_123").write_bytes(b"torn")  # of an earlier version
    (published / ".notes").write_text("somebody's")
    clear_run_leftovers(tmp_path)
    assert sorted(path.name for path in published.iterdir()) == [".notes", "config.json", "manifest.json"]


def test_only_what_a_killed_write_left_is_temporary(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    kept = [".cells.parquet", ".mask000.tif.not-ours", ".x.json.ABCDEFGH", "mask000.tif"]
    for name in [*kept, "b/.mask000.tif.ab_cd012", ".cells.csv.abcdefgh"]:
        (tmp_path / "a" / name).write_text("x")
    clear_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == kept


def test_folders_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("hela-store-demo", "hela-store-spill-mine.too", "hela-store-spill-abcdefgh"):
        (tmp_path / name).mkdir()
    with scratch_folder() as mine:
        clear_scratch()
        assert mine.exists() and len(list(tmp_path.iterdir())) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"hela-store-demo", "hela-store-spill-mine.too"}


def test_a_run_that_is_begun_while_leftovers_are_cleared_is_not_lost(tmp_path: Path) -> None:
    code = "import sys\nfrom hela_store.runs.leftovers import clear_run_leftovers\nwhile True: clear_run_leftovers(sys.argv[1])"
    with forked.Popen([sys.executable, "-c", code, str(tmp_path)]) as other:
        deadline, made = time.monotonic() + 3, []
        while time.monotonic() < deadline:
            run = new_run(tmp_path, "evaluate", {})
            run.publish()
            made.append(run.id)
        other.kill()
    assert len(made) > 10 and run_ids(tmp_path) == sorted(made)
