"""A scoring that is done already is not done again: test would count as scored twice for one answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.runs.finished import claim_run, find_finished
from hela_store.runs.folder import RunInfo, package_version
from hela_store.runs.info import to_json
from hela_store.store.store import Store


@contextmanager
def claim_scoring(
    store: Store, kind: str, about: Mapping[str, Any], *, fresh: bool = False, progress: Progress = silent
) -> Iterator[RunInfo | None]:
    """Claim a scoring among processes and yield the finished run of it, None where it is to be done.

    Parameters
    ----------
    store : Store
    kind : str
        Of the run.
    about : mapping
        Configuration of the run, with a digest of what it reads of the store. It is the same scoring where all of it is
        equal and this version of the package did it.
    fresh : bool
        Do it in any case.
    progress : Progress
        Shown while another process is at it.
    """
    if fresh:
        yield None
        return
    plain: dict[str, Any] = json.loads(to_json(about))

    def same(run: RunInfo) -> bool:
        return run.config == plain and run.version == package_version() and bool(run.result())

    with claim_run(store.path, kind, plain, progress=progress):
        yield find_finished(store.path, kind, same)
