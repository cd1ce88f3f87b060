"""The command as users run it: its console entry point in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("hela-store")
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a user who set nothing, with one thread so that tests share a small machine."""
    return {k: v for k, v in os.environ.items() if k != "HELA_STORE"} | {"OMP_NUM_THREADS": "1"} | extra


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs ``hela-store`` in the test's folder and returns the finished process."""

    def run(*arguments: object, folder: Path = tmp_path, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment(**extra), check=False, timeout=570
        )
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run
