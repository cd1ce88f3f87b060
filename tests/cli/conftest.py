"""Two ways to run the command: in this process, which is fast, and as users start it."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from console import COMMAND, Run, environment
from hela_store_cli.main import main


def finished(
    arguments: tuple[object, ...], found: int, code: int | None, out: str, err: str
) -> subprocess.CompletedProcess[str]:
    assert code in (None, found), f"{arguments}\n{out}\n{err}"
    assert "Traceback" not in err
    return subprocess.CompletedProcess(list(map(str, arguments)), found, out, err)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs ``hela-store`` in this process, in the test's folder; ``code=None``: any exit."""

    def run(
        *arguments: object, folder: Path = tmp_path, code: int | None = 0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        settings: dict[str, str | None] = {"HELA_STORE": None, **extra}
        with contextlib.chdir(folder):
            done = CliRunner().invoke(main, [*map(str, arguments)], prog_name="hela-store", env=settings)
        return finished(arguments, done.exit_code, code, done.stdout, done.stderr)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """Return a function as :func:`run` that starts the console entry point in a process of its own."""

    def start(
        *arguments: object, folder: Path = tmp_path, code: int | None = 0, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment(**extra), check=False, timeout=570
        )
        return finished(arguments, done.returncode, code, done.stdout, done.stderr)

    return start
