"""What only looks at a store does not load what only computing needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from console import environment

ASK = """
import sys
from pathlib import Path
import hela_store as hs
store = hs.Store.open(sys.argv[1])
hs.info(store) if sys.argv[2] == "info" else hs.report(store, out=Path(sys.argv[3]))
print("torch" in sys.modules)
"""


@pytest.mark.ci
@pytest.mark.parametrize("what", ["info", "report"])
def test_a_look_at_a_store_without_runs_loads_no_torch(what: str, embedded: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(embedded), what, str(tmp_path / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.splitlines()[-1] == "False"
