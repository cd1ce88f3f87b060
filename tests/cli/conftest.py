"""A way to run the command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from console import COMMAND, Run, environment


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs ``hela-store`` in the test's folder and returns the finished process; ``code=None``: any exit."""

    def run(
        *arguments: object, folder: Path = tmp_path, code: int | None = 0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment(**extra), check=False, timeout=570
        )
        assert code in (None, done.returncode), f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run
