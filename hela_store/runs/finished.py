"""Work that is done already: a published run of the wanted kind and configuration, so that it is not run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .folder import RunInfo, list_runs


def find_finished(store_path: Path | str, kind: str, same: Callable[[RunInfo], bool]) -> RunInfo | None:
    """Return the latest published run of a kind that is the wanted one; None where there is none.

    Parameters
    ----------
    same : whether a run is it: most often whether its ``config`` decides the same result; the latest is asked first

    Raises
    ------
    RunError
        A run is damaged.
    """
    return next((run for run in reversed(list_runs(store_path, kind)) if same(run)), None)
