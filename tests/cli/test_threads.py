"""The policy for threads is set before torch loads, and what the user set is kept."""

from __future__ import annotations

import subprocess
import sys

from console import environment
from hela_store_cli.threads import COUNTS, WAITS, policy

from hela_store.base.cores import usable_cores

ASK = """
import os, sys
from hela_store_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
import torch
print(torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY"))
"""


def loaded_with(*words: str, **extra: str) -> list[str]:
    """Return what torch and the environment say in a process in which the command has run."""
    clean = {name: value for name, value in environment().items() if name not in (*COUNTS, *WAITS)}
    command = [sys.executable, "-c", ASK, *words, "encoders", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=clean | extra).stdout.split()[-2:]


def test_torch_is_loaded_with_the_policy() -> None:
    assert loaded_with() == [str(usable_cores()), "PASSIVE"]


def test_what_was_asked_for_counts_more_than_the_environment_and_that_more_than_the_policy() -> None:
    assert loaded_with("--threads", "1", OMP_NUM_THREADS="2", OMP_WAIT_POLICY="ACTIVE") == ["1", "ACTIVE"]
    assert policy({"OMP_NUM_THREADS": "7"}, None, looks=False) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert policy({"GOMP_SPINCOUNT": "9", "MKL_NUM_THREADS": "7"}, None, looks=False) == {}
