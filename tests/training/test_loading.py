"""Loader processes, as a terminal's Ctrl-C meets them: it reaches every process of the group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from console import assert_gone, environment

JOB = """
import sys, time
from hela_store.training.loading import load

class Slow:
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        time.sleep(0.02)
        return index

if __name__ == "__main__":
    print("start", flush=True)
    try:
        for item in load(Slow(), 2, sys.argv[1]):
            print(item, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("method", "moment"),
    [
        ("fork", "items"),
        ("spawn", "start"),
        pytest.param("fork", "start", marks=pytest.mark.slow),
        pytest.param("spawn", "items", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_loader_processes_without_a_word(tmp_path, method: str, moment: str) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    with subprocess.Popen(
        [sys.executable, str(script), method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        if moment == "items":
            process.stdout.readline()
        else:
            deadline = time.monotonic() + 100
            while len(psutil.Process(process.pid).children()) < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.1)  # the first worker is there, and imports what it needs if it was spawned
        os.killpg(process.pid, signal.SIGINT)
        printed = process.stderr.read().decode()
    assert (process.returncode, printed) == (130, "")
    assert_gone(process.pid)
