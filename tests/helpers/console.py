"""The command as users run it: its console entry point, in an environment where nothing is set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = Path(sys.executable).with_name("hela-store")
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a user who set nothing, with one thread so that tests share a small machine."""
    return {k: v for k, v in os.environ.items() if k != "HELA_STORE"} | {"OMP_NUM_THREADS": "1"} | extra


def assert_gone(group: int, seconds: float = 10.0) -> None:
    """Wait for every process of a group to end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"a process of group {group} is left")
