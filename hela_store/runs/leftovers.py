"""Say what killed processes left in ``runs/``: cleared by whoever begins a run, never while a process uses it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from hela_store.base.files import clear_temporary
from hela_store.base.locks import clear_claims
from hela_store.errors import RunError

from .folder import held_partial, is_running, partial_runs, run_ids

STATE = "state.safetensors"
"""Name of the file in a partial run that it is gone on from."""


def clear_run_leftovers(store_path: Path | str) -> None:
    """Remove temporary files in published runs, partial runs that cannot be gone on with, and notes of claims.

    Of partial runs only those without a state, which no process is writing.
    """
    runs = Path(store_path) / "runs"
    for name in run_ids(store_path):
        clear_temporary(runs / name)
    for name in partial_runs(store_path):
        path = runs / f".{name}.partial"
        if (path / STATE).exists() or is_running(store_path, name):
            continue
        with contextlib.suppress(RunError, OSError), held_partial(store_path, name):
            if not (path / STATE).exists():
                shutil.rmtree(path, ignore_errors=True)
    clear_claims(runs)
