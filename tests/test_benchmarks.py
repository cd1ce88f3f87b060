"""The scripts in ``tests/benchmarks`` run: all but their numbers is tried on a drawn sequence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
TINY = sorted(path.name for path in FOLDER.glob("*.py") if '"--tiny"' in path.read_text())
GIVEN = {"tuning_study.py": ["losses", "--arms", "zero-shot", "dice+bce", "--seeds", "1", "--steps", "2", "--store"]}
"""What a script is given in place of ``--out``."""


def test_the_scripts_are_found() -> None:
    assert {"audit_study.py", "mend_study.py", "teach_study.py", *GIVEN} <= set(TINY)


@pytest.mark.slow
@pytest.mark.parametrize("script", TINY)
def test_a_study_runs_on_a_drawn_sequence(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / script), *GIVEN.get(script, ["--out"]), str(tmp_path / "out"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|" in done.stdout  # a table
