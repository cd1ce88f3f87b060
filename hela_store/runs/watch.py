"""Follow the log of a run that is being written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hela_store.errors import RunError

from .folder import is_running, partial_runs, run_ids

POLL_SECONDS = 0.5


def watch(store_path: Path, run: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run's log, those that are there and those to come, until it is published or stops.

    Parameters
    ----------
    store_path : Path
    run : id of an unfinished or published run; None for the unfinished one that began last, else the last published

    Yields
    ------
    dict
        First ``{"run": its id}``, then rows of ``log.jsonl``.

    Raises
    ------
    RunError
        There is no such run, or none at all.
    """
    partial, done = partial_runs(store_path), run_ids(store_path)
    found = run or next(iter([*reversed(partial), *reversed(done)]), None)
    if found is None or found not in (*partial, *done):
        raise RunError(f"no run {found or ''!r} in {store_path}; unfinished: {', '.join(partial) or 'none'}")
    yield {"run": found}
    told = 0
    while True:
        over = not is_running(store_path, found)
        rows = _rows(store_path / "runs", found)
        yield from rows[told:]
        told = max(told, len(rows))
        if over:
            return
        time.sleep(POLL_SECONDS)


def _rows(runs: Path, run: str) -> list[dict[str, Any]]:
    for folder in (runs / f".{run}.partial", runs / run):
        try:
            text = (folder / "log.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        # the last line may be half there
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return []
