"""Work that is done already: a published run of the wanted kind and configuration, so that it is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hela_store.base.files import digest
from hela_store.base.locks import claim
from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError

from .folder import RunInfo, run_ids
from .info import read_info
from .leftovers import clear_run_leftovers


def find_finished(store_path: Path | str, kind: str, same: Callable[[RunInfo], bool]) -> RunInfo | None:
    """Return the latest published run of a kind that is the wanted one; None where there is none.

    Parameters
    ----------
    same : whether a run is it: most often whether its ``config`` decides the same result; the latest is asked first
    """
    found = sorted(readable_runs(store_path, kind), key=lambda run: (run.created, run.id), reverse=True)
    return next((run for run in found if same(run)), None)


def readable_runs(
    store_path: Path | str, kind: str | None = None, damaged: list[str] | None = None
) -> Iterator[RunInfo]:
    """Yield all published runs (of that kind) but damaged ones: what another run has become stops no work.

    Parameters
    ----------
    damaged : takes the ids of runs that cannot be read, of whatever kind; for whoever counts
    """
    for name in run_ids(store_path):
        try:
            run = read_info(Path(store_path) / "runs" / name, name)
        except RunError:
            if damaged is not None:
                damaged.append(name)
            continue
        if kind in (None, run.kind):
            yield run


def claim_run(
    store_path: Path | str, kind: str, config: Mapping[str, Any], *, wait: bool = True, progress: Progress = silent
) -> AbstractContextManager[bool]:
    """Claim the making of a run of this kind and configuration, as :func:`hela_store.base.locks.claim` does.

    Whoever has it looks first whether another process finished that run meanwhile.
    """
    clear_run_leftovers(store_path)
    work = digest(kind, repr(sorted(config.items())))[:16]
    return claim(Path(store_path) / "runs", work, wait, progress)
