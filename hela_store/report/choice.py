"""What a report is about: which runs, on which block, which pairs of them are compared; and rows from the catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb

from .. import catalog
from ..runs import RunInfo, list_runs, load_run
from ..store import Store

SPLITS = ("test", "val", "train", "gap")
ZERO_SHOT = "zero-shot"
EVALUATE_FIRST = "`hela-store evaluate` scores the decoder and keeps every cell"

LINES = """
    SELECT p.run, p.prompt, p.split, count(*) AS n, count(DISTINCT p.cell) AS cells
    FROM predictions p GROUP BY ALL ORDER BY ALL
"""
SCORED = """
    SELECT m.*, c.mean_intensity, p.free_iou, p.free_dice, p.prompt_iou
    FROM cell_metrics m JOIN cells c USING (cell)
    JOIN prompts p ON p.run = m.run AND p.cell = m.cell AND p.kind = m.prompt AND p.prompt_seed = m.prompt_seed
    WHERE list_contains($runs, m.run) AND list_contains($lines, m.run || ' ' || m.prompt) AND m.split = $split
"""
"""Every scored cell of the chosen lines."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run's answers to one kind of prompt on the reported block.

    Attributes
    ----------
    run, name : str
        Id, and what the run is called in figures.
    kind, prompt : str
    n, cells : int
        Predictions and distinct cells.
    """

    run: str
    name: str
    kind: str
    prompt: str
    n: int
    cells: int

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.run} {self.prompt}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two lines on the same kind of prompt; ``before`` is None where there is only one."""

    prompt: str
    before: Line | None
    after: Line


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is reported.

    Attributes
    ----------
    store : Store
    split : str
        Block the scores are of; empty without any.
    lines : tuple of Line
        By prompt, then in the order the runs began.
    tuned : tuple of RunInfo
        Fine-tunings whose learning curves are shown.
    runs : tuple of RunInfo
        All runs that appear.
    notes : tuple of str
        What is missing, and what to run.
    """

    store: Store
    split: str
    lines: tuple[Line, ...]
    tuned: tuple[RunInfo, ...]
    runs: tuple[RunInfo, ...]
    notes: tuple[str, ...]

    def rows(self, sql: str, **parameters: Any) -> list[Row]:
        """Run SQL on the catalog and return its rows."""
        found: list[Row] = catalog.query(self.store.path, sql, parameters or None).to_pylist()
        return found

    @cached_property
    def _memory(self) -> duckdb.DuckDBPyConnection:
        """All scored cells in memory: the figures ask for them dozens of times."""
        asked = {"runs": sorted({line.run for line in self.lines}), "lines": [line.key for line in self.lines]}
        table = catalog.query(self.store.path, SCORED, asked | {"split": self.split})
        return duckdb.connect().register("everything", table)

    def scored(self, sql: str, lines: Sequence[Line], **parameters: Any) -> list[Row]:
        """Run SQL over ``scored``, the scored cells of ``lines`` on the block, with what is known of each cell."""
        some = "WITH scored AS (FROM everything WHERE list_contains($lines, run || ' ' || prompt))"
        asked = {"lines": [line.key for line in lines], **parameters}
        found: list[Row] = self._memory.sql(f"{some} {sql}", params=asked).to_arrow_table().to_pylist()
        return found

    @cached_property
    def columns(self) -> frozenset[str]:
        """Columns of ``cell_metrics``."""
        return frozenset(row["column_name"] for row in self.rows("DESCRIBE cell_metrics"))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Kinds of prompts there are scores for."""
        return tuple(dict.fromkeys(line.prompt for line in self.lines))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """For each kind of prompt the first line that is no control, and the last; they are compared."""
        found = []
        for prompt in self.prompts:
            lines = [line for line in self.lines if line.prompt == prompt]
            lines = [line for line in lines if line.kind != "control"] or lines
            first = next((line for line in lines if line.name.startswith(ZERO_SHOT)), lines[0])
            after = next((line for line in reversed(lines) if line is not first), None)
            found.append(Pair(prompt=prompt, before=first if after else None, after=after or first))
        return tuple(found)


def choose(store: Store, asked: Sequence[str]) -> Choice:
    """Choose what to report.

    Parameters
    ----------
    asked : run ids, their beginnings or ``"latest"``
        A fine-tuning stands for the evaluations of its weights. None: of every checkpoint, kind of run and prompt
        the latest run on the block.

    Raises
    ------
    RunError, StoreError
        A run is unknown, or the store is damaged.
    """
    everything = list_runs(store.path)
    named = [load_run(store.path, each) for each in asked]
    wanted = {run.id for run in named}
    tuned_wanted = {run.id for run in named if run.kind == "finetune"}
    picked = [r for r in everything if not named or r.id in wanted or r.checkpoint in tuned_wanted]
    counts = catalog.query(store.path, LINES).to_pylist() if picked else []
    counts = [row for row in counts if row["run"] in {run.id for run in picked}]
    split = next((name for name in SPLITS if any(row["split"] == name for row in counts)), "")
    order = {run.id: place for place, run in enumerate(everything)}
    # the order in which runs are named is the order in which they are compared
    order |= {run.id: len(everything) + place for place, run in enumerate(named)}
    rows = sorted((r for r in counts if r["split"] == split), key=lambda row: (row["prompt"], order[row["run"]]))
    by_id = {run.id: run for run in everything}
    if not named:
        latest = {
            (by_id[r["run"]].checkpoint, by_id[r["run"]].kind, _label(by_id[r["run"]]), r["prompt"]): r for r in rows
        }
        rows = list(latest.values())
    names = _names([by_id[run] for run in dict.fromkeys(row["run"] for row in rows)])
    lines = tuple(
        Line(
            run=row["run"],
            name=names[row["run"]],
            kind=by_id[row["run"]].kind,
            prompt=row["prompt"],
            n=row["n"],
            cells=row["cells"],
        )
        for row in rows
    )
    used = {line.run for line in lines}
    tuned_used = tuned_wanted | {by_id[run].checkpoint for run in used}
    tuned = tuple(r for r in picked if r.kind == "finetune" and (not named or r.id in tuned_used))
    shown = tuple(run for run in everything if run.id in used | {run.id for run in tuned})
    return Choice(
        store=store, split=split, lines=lines, tuned=tuned, runs=shown, notes=_notes(picked, counts, bool(lines))
    )


def _label(run: RunInfo) -> str:
    """Return what tells runs of one checkpoint apart: nothing for an evaluation, its label for a baseline."""
    return "" if run.checkpoint else run.label


def _names(runs: Sequence[RunInfo]) -> dict[str, str]:
    """Return short names, unique among these runs."""
    names = {run.id: _name(run) for run in runs}
    often = Counter(names.values())
    return {id: f"{name} ({id[-4:]})" if often[name] > 1 else name for id, name in names.items()}


def _name(run: RunInfo) -> str:
    if run.kind not in ("evaluate", "control"):
        return _short(run.id)
    name = _short(run.checkpoint) if run.checkpoint else ZERO_SHOT
    return f"{name}, another frame's embedding" if run.kind == "control" else name


def _short(id: str) -> str:
    """Return a run id without the time it began."""
    return id.split("-", 2)[-1]


def _notes(picked: Sequence[RunInfo], counts: Sequence[Row], scored: bool) -> tuple[str, ...]:
    there = {row["run"] for row in counts}
    gone = [run.id for run in picked if run.kind in ("evaluate", "control") and run.id not in there]
    notes = [f"run {id} has no predictions; restore its folder, or score again: {EVALUATE_FIRST}" for id in gone]
    if not picked:
        notes.append(f"no run yet: {EVALUATE_FIRST}, `hela-store finetune --prompt box` tunes it first")
    elif not scored:
        notes.append(f"nothing is scored yet: {EVALUATE_FIRST}")
    return tuple(notes)
