"""The benchmark beside busy processes runs, and says what it is compared with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hela_store_cli.bench import THIS_COMMAND

from hela_store.bench.busy import BusyBenchConfig, bench_busy, seconds_of_work
from hela_store.errors import HelaError
from hela_store.runs.folder import new_run


def test_it_is_compared_with_the_command_alone() -> None:
    with pytest.raises(HelaError, match="expected 0 first"):
        BusyBenchConfig(competing=(1, 0))


def test_the_work_is_timed_without_the_start(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run = new_run(tmp_path, "evaluate", {"encoder": "e", "split": "val"}, label="val")
    run.log(step=1, seconds=1.5)
    run.log(seconds=2.5, result={})
    run.publish()
    assert seconds_of_work({"run": run.id}, tmp_path) == 2.5
    assert seconds_of_work({"seconds": 3.5, "done_now": 4}, tmp_path) == 3.5


@pytest.mark.slow
def test_every_command_is_timed_alone_and_in_company() -> None:
    config = BusyBenchConfig(competing=(0, 1), frames=6, steps=2, rounds=1)
    found = bench_busy(config, command=THIS_COMMAND, environment=os.environ)
    assert [(row.command, row.competing) for row in found.rows] == [
        (command, count) for command in ("embed", "finetune", "evaluate") for count in (0, 1)
    ]
    for row in found.rows:
        if row.competing:
            assert row.spinning is not None and row.spinning_seconds is not None and row.spinning_seconds > 0
        else:
            assert row.of_fair == 1 and row.fair == 1 and row.spinning is None
        assert row.seconds > 0
