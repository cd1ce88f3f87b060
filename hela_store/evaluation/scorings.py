"""Say how often test frames have been scored: in this store, and in all stores of a user.

Whoever looks at the test block often chooses on it. The runs of a store say how often it was scored there, but another
store of the same frames begins at nothing. So every scoring is also a line in a file of the user's, keyed by the sums
of the frames' pixels. The file is only appended to: a line ``{"set": ..., "frames": [...]}`` once for each set of
frames, and a line ``{"id": ..., "set": ...}`` for each scoring.

A study of budgets scores test for each of its points, on a sample of the cells. A curve of 160 points is no 160
evaluations, and it is not nothing: points are counted apart, with ``"point": true`` in their lines.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    points : points of studies of budgets that did
    everywhere : scorings of any frame of it in all stores of this user; None where the user's file cannot be used
    points_everywhere : the same of points of studies of budgets
    damaged : runs of this store that cannot be read, so that nobody knows whether they scored it
    problem : why the user's file cannot be used; empty where it can
    """

    here: int
    points: int = 0
    everywhere: int | None = None
    points_everywhere: int = 0
    damaged: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        more = f" and at {self.points} points of budgets" if self.points else ""
        text = f"This store's test set has been scored {_times(self.here)}{more}"
        if self.everywhere is None:
            return text + "."
        every = _times(self.everywhere) + (f" and at {self.points_everywhere} points" if self.points_everywhere else "")
        return f"{text},\nand its frames {every} in all your stores together."

    def notes(self) -> list[str]:
        """Return what keeps the numbers from being whole, a line each."""
        lines = [f"{self.problem}; only this store's own scorings of test are counted"] if self.problem else []
        if self.damaged:
            which = ", ".join(self.damaged)
            lines.append(f"not counted, as they are damaged: {which}; `hela-store verify` says what is wrong with them")
        return lines


def store_scorings(store: Store) -> tuple[list[RunInfo], tuple[str, ...]]:
    """Return the runs of a store that scored its test block, points of budgets too, and those that cannot be read."""
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
    points = sum(run.is_point for run in runs)
    counts: dict[str, Any] = {"here": len(runs) - points, "points": points}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
            known = _Known(file)
            seen, unreadable = _new_lines(store, runs, known.ids)
            again, more = _new_lines(
                store, [r for name in scored_again if _scored_test(r := load_run(store.path, name))]
            )
            known.add([*seen, *(replace(line, id=f"{line.id}:{secrets.token_hex(4)}") for line in again)])
            test = _sums(store, [f for f, block in store.blocks().items() if block == "test"])
            everywhere, points_everywhere = known.count(test)
    except (OSError, ValueError, filelock.Timeout) as error:
        return Scorings(**counts, damaged=damaged, problem=f"{file} cannot be used ({error})")
    counts |= {"everywhere": everywhere, "points_everywhere": points_everywhere}
    return Scorings(**counts, damaged=(*damaged, *dict.fromkeys((*unreadable, *more))))


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """One scoring: its id, the sums of its frames, and whether it is a point of a study of budgets."""

    id: str
    frames: list[str]
    is_point: bool


def _new_lines(store: Store, runs: Iterable[RunInfo], known: Iterable[str] = ()) -> tuple[list[_Scoring], list[str]]:
    """Return the scorings of runs that are not known yet, and the runs that are damaged."""
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
        lines.append(_Scoring(id=run.id, frames=_sums(store, frames), is_point=run.is_point))
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
        self._points: set[str] = set()
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
            self._points |= {line["id"]} if line.get("point") else set()

    @property
    def ids(self) -> set[str]:
        """Scorings that are written down."""
        return set(self._scored)

    def add(self, scorings: Iterable[_Scoring]) -> None:
        """Append scorings."""
        new: list[dict[str, Any]] = []
        for scored in scorings:
            name = digest(*scored.frames)[:_SUM_DIGITS]
            if name not in self._sets:
                new.append({"set": name, "frames": scored.frames})
                self._take(new[-1])
            new.append({"id": scored.id, "set": name} | ({"point": True} if scored.is_point else {}))
            self._take(new[-1])
        if new:
            with self._file.open("a", encoding="utf-8") as out:
                out.write("".join(json.dumps(line) + "\n" for line in new))

    def count(self, frames: Iterable[str]) -> tuple[int, int]:
        """Count the scorings that looked at any of these frames: those that are no points of budgets, and points."""
        wanted = set(frames)
        looked = {name for name, kept in self._sets.items() if not wanted.isdisjoint(kept)}
        points = [scored in self._points for scored, name in self._scored.items() if name in looked]
        return len(points) - sum(points), sum(points)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
