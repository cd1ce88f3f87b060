"""Say how often test frames have been scored: in this store, and in all stores of a user.

Whoever looks at the test block often chooses on it. The runs of a store say how often it was scored there, but another
store of the same frames begins at nothing. So every scoring is also a line in a file of the user's, keyed by the sums
of the frames' pixels. The file is only appended to: a line ``{"set": ..., "frames": [...]}`` once for each set of
frames, and a line ``{"id": ..., "set": ...}`` for each scoring.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from hela_store.base.files import digest
from hela_store.errors import RunError
from hela_store.runs.finished import readable_runs
from hela_store.runs.folder import RunInfo, load_run
from hela_store.store.store import Store

LOCK_SECONDS = 10.0
_SUM_DIGITS = 16
_MASKS = ("predictions", "detections", "changes")


@dataclass(frozen=True, kw_only=True)
class Scorings:
    """Describe how often test frames have been scored.

    Attributes
    ----------
    here : runs of this store that scored its test block
    everywhere : scorings of any frame of it in all stores of this user; None where the user's file cannot be used
    damaged : runs of this store that cannot be read, so that nobody knows whether they scored it
    problem : why the user's file cannot be used; empty where it can
    """

    here: int
    everywhere: int | None = None
    damaged: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        text = f"This store's test block has been scored {_times(self.here)}"
        if self.everywhere is None:
            return text + "."
        return f"{text},\nand its frames {_times(self.everywhere)} in all stores of this user, against any labels."

    def notes(self) -> list[str]:
        """Return what keeps the numbers from being whole, a line each."""
        lines = [f"{self.problem}; only this store's own scorings of test are counted"] if self.problem else []
        if self.damaged:
            which = ", ".join(self.damaged)
            lines.append(f"not counted, as they are damaged: {which}; `hela-store verify` says what is wrong with them")
        return lines


def store_scorings(store: Store) -> tuple[list[RunInfo], tuple[str, ...]]:
    """Return the runs of a store that scored its test block, and the ids of runs that cannot be read."""
    damaged: list[str] = []
    found = [run for run in readable_runs(store.path, damaged=damaged) if _scored_test(run)]
    return found, tuple(damaged)


def _scored_test(run: RunInfo) -> bool:
    return run.kind != "finetune" and run.split in ("test", "all")


def count_scorings(store: Store, file: Path, scored_again: Sequence[str] = ()) -> Scorings:
    """Write down the scorings of a store that the user's file does not have yet, and count.

    Parameters
    ----------
    file : of the user, beside the checkpoints in the cache
    scored_again : runs whose masks were scored against other labels just now; each counts once more
    """
    runs, damaged = store_scorings(store)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
            known = _Known(file)
            seen, unreadable = _new_lines(store, runs, known.ids)
            again, more = _new_lines(
                store, [r for name in scored_again if _scored_test(r := load_run(store.path, name))]
            )
            known.add([*seen, *((f"{run}:{secrets.token_hex(4)}", frames) for run, frames in again)])
            everywhere = known.count(_sums(store, [f for f, block in store.blocks().items() if block == "test"]))
    except (OSError, ValueError, filelock.Timeout) as error:
        return Scorings(here=len(runs), damaged=damaged, problem=f"{file} cannot be used ({error})")
    return Scorings(here=len(runs), everywhere=everywhere, damaged=(*damaged, *dict.fromkeys((*unreadable, *more))))


def _new_lines(
    store: Store, runs: Iterable[RunInfo], known: Iterable[str] = ()
) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Return the runs that are not known yet, each with the sums of its frames, and those that are damaged."""
    lines, damaged, there = [], [], set(known)
    for run in runs:
        if run.id in there:
            continue
        try:
            table = next((name for name in _MASKS if run.has(f"{name}.parquet")), None)
            frames = {row["frame"] for row in run.rows(table, ["frame"])} if table else set()
        except RunError:
            damaged.append(run.id)
            continue
        lines.append((run.id, _sums(store, frames)))
    return lines, damaged


def _sums(store: Store, frames: Iterable[str]) -> list[str]:
    records = store.frame_records()
    return sorted(records[frame].sha256[:_SUM_DIGITS] for frame in frames if frame in records)


class _Known:
    """The user's file; ValueError where a line of it is none of ours."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sets: dict[str, set[str]] = {}
        self._scored: dict[str, str] = {}
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"line {number} is damaged; move the file away to begin a new one") from None

    def _take(self, line: dict[str, Any]) -> None:
        if "frames" in line:
            self._sets[line["set"]] = set(line["frames"])
        else:
            self._scored[line["id"]] = line["set"]

    @property
    def ids(self) -> set[str]:
        """Scorings that are written down."""
        return set(self._scored)

    def add(self, lines: Iterable[tuple[str, list[str]]]) -> None:
        """Append scorings, each with the sums of its frames."""
        new: list[dict[str, Any]] = []
        for scored, frames in lines:
            name = digest(*frames)[:_SUM_DIGITS]
            if name not in self._sets:
                new.append({"set": name, "frames": frames})
                self._take(new[-1])
            new.append({"id": scored, "set": name})
            self._take(new[-1])
        if new:
            with self._file.open("a", encoding="utf-8") as out:
                out.write("".join(json.dumps(line) + "\n" for line in new))

    def count(self, frames: Iterable[str]) -> int:
        """Count the scorings that looked at any of these frames."""
        wanted = set(frames)
        return sum(not wanted.isdisjoint(self._sets.get(name, ())) for name in self._scored.values())


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
