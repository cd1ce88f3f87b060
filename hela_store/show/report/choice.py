"""Choose the runs of a report, their block and the pairs that are compared, and read their rows from the catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb

from hela_store.catalog import index as catalog
from hela_store.embedding.encoders import seen_notes
from hela_store.prompts.kinds import HEADLINE_PROMPTS, NO_PROMPT, PROMPT_KINDS
from hela_store.recipe.splits import SPLIT_NAMES
from hela_store.runs.folder import RunInfo, list_runs, load_run
from hela_store.store.store import Store

SPLITS = ("test", "val", "train", "gap")
ZERO_SHOT = "zero-shot"
FREE = "image-free"
NAIVE = "naive guess"
"""What image-free scores are called on the page."""
PLACES = {kind: place for place, kind in enumerate(dict.fromkeys((*HEADLINE_PROMPTS, *PROMPT_KINDS)))}
"""Order in which prompts are shown; others follow by name."""
ROLES = {FREE: 0, "classical": 1, "control": 3}
"""Order of the lines of a prompt by their kind, all others at 2."""
SCORING = ("evaluate", "control", "robustness", "baseline")
"""Kinds of runs that hold predictions."""
NAMED = 5
"""Runs that a note names one by one."""
EVALUATE_FIRST = "`hela-store evaluate` scores the decoder and keeps every cell"

LINES = """
    SELECT p.run, p.prompt, p.split, count(*) AS n
    FROM predictions p GROUP BY ALL ORDER BY ALL
"""
SCORED = """
    SELECT m.*, c.mean_intensity, p.free_iou, p.free_dice, p.free_ellipse_iou, p.prompt_iou
    FROM cell_metrics m JOIN cells_at c USING (cell, labels_version)
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
    kind : str
        Of the run; of a baseline which one it is.
    prompt : str
    n : int
        Predictions.
    fits : bool
        Whether its decoder was tuned for this kind of prompt.
    """

    run: str
    name: str
    kind: str
    prompt: str
    n: int
    fits: bool

    @property
    def key(self) -> str:
        """Id that tells this line from all others."""
        return f"{self.run} {self.prompt}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two lines on the same kind of prompt; ``before`` is None where there is only one."""

    prompt: str
    before: Line | None
    after: Line


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Runs and pairs that a report shows.

    Attributes
    ----------
    store : Store
    split : str
        Block the scores are of; empty without any.
    lines : tuple of Line
        By prompt, then baselines, decoders in the order their runs began, controls.
    robust : tuple of Line
        Of robustness runs, whose prompts are settings such as ``"box@0.1"``.
    tuned : tuple of RunInfo
        Fine-tunings whose learning curves are shown.
    detections : tuple of RunInfo
        Runs of detectors on the block.
    mended : tuple of RunInfo
        Runs that mended masks of other tools.
    runs : tuple of RunInfo
        All runs that appear.
    ordered : bool
        Whether runs were named, and so are compared in that order.
    notes : tuple of str
        What is missing, and what to run.
    """

    store: Store
    split: str
    lines: tuple[Line, ...]
    robust: tuple[Line, ...]
    tuned: tuple[RunInfo, ...]
    detections: tuple[RunInfo, ...]
    mended: tuple[RunInfo, ...]
    runs: tuple[RunInfo, ...]
    ordered: bool
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
        """Kinds of prompts there are scores for; that of cells found without one only where it is the only one."""
        found = tuple(dict.fromkeys(line.prompt for line in self.lines))
        return tuple(prompt for prompt in found if prompt != NO_PROMPT) or found

    def beside(self, prompt: str) -> list[Line]:
        """Return what is compared under a prompt: its lines, and those that need none."""
        found = [line for line in self.lines if line.prompt in (prompt, NO_PROMPT)]
        return sorted(found, key=lambda line: ROLES.get(line.kind, 2))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Two decoders that are compared for each kind of prompt: zero-shot or the first, and the last.

        Where nobody named runs, the last is the last one tuned for this kind of prompt, if there is one.
        """
        found = []
        for prompt in self.prompts:
            lines = [line for line in self.lines if line.prompt == prompt]
            lines = [line for line in lines if line.kind not in ROLES] or lines
            first = next((line for line in lines if line.name.startswith(ZERO_SHOT)), lines[0])
            others = [line for line in lines if line is not first]
            fit = [] if self.ordered else [line for line in others if line.fits]
            after = (fit or others or [first])[-1]
            found.append(Pair(prompt=prompt, before=None if after is first else first, after=after))
        return tuple(found)


def choose(store: Store, asked: Sequence[str]) -> Choice:
    """Choose what to report.

    Parameters
    ----------
    asked : run ids, their beginnings, or ``"latest"`` for the latest evaluation
        A fine-tuning or a detector stands for the runs that used its weights. None: of every checkpoint, kind of run
        and prompt the latest run on the block.

    Raises
    ------
    RunError, StoreError
        A run is unknown, or the store is damaged.
    """
    named = [load_run(store.path, each, latest_of="evaluate") for each in asked]
    wanted = {run.id for run in named}
    # the points of a study of budgets are dozens, and have a chart of their own
    everything = [run for run in list_runs(store.path) if not run.is_point or run.id in wanted]
    picked = [run for run in everything if not named or {run.id, run.checkpoint} & wanted]
    by_id = {run.id: run for run in picked}
    counts = catalog.query(store.path, LINES).to_pylist() if picked else []
    counts = [row for row in counts if row["run"] in by_id]
    split = next((name for name in SPLITS if any(row["split"] == name for row in counts)), "")
    # the order in which runs are named is the order in which they are compared
    order = {run.id: place for place, run in enumerate([*everything, *named])}
    rows = sorted((row for row in counts if row["split"] == split), key=lambda row: order[row["run"]])
    version, other_labels = _labels_version(store, rows, by_id)
    rows = [row for row in rows if by_id[row["run"]].labels_version == version]
    if not named:
        rows = _latest(rows, by_id)
    rows.sort(key=lambda row: (PLACES.get(row["prompt"], len(PLACES)), row["prompt"]))
    tuned_for = {run.id: str(run.config.get("prompt", "")) for run in everything if run.kind == "finetune"}
    robust = _lines(rows, {id: run for id, run in by_id.items() if run.kind == "robustness"}, tuned_for)
    lines = _lines(rows, {id: run for id, run in by_id.items() if run.kind != "robustness"}, tuned_for)
    used = {line.run for line in (*lines, *robust)}
    weights = wanted | {by_id[run].checkpoint for run in used}
    tuned = tuple(run for run in everything if run.kind == "finetune" and (not named or run.id in weights))
    detections = _detections(picked, split, bool(named))
    mended = _mended(picked, bool(named))
    shown = used | {run.id for run in (*tuned, *detections, *mended)}
    return Choice(
        store=store.at_labels(version),
        split=split,
        lines=lines,
        robust=robust,
        tuned=tuned,
        detections=detections,
        mended=mended,
        runs=tuple(run for run in everything if run.id in shown),
        ordered=bool(named),
        notes=(
            *_notes(picked, counts, bool(rows or detections or mended)),
            *_elsewhere(counts, by_id, split),
            *other_labels,
            *seen_notes(store, [by_id[run].encoder for run in used]),
        ),
    )


def _labels_version(store: Store, rows: Sequence[Row], by_id: Mapping[str, RunInfo]) -> tuple[int, tuple[str, ...]]:
    """Return the version of the labels that the last run was scored against, and a note on runs of other versions."""
    if not rows:
        return store.labels_version, ()
    version = by_id[rows[-1]["run"]].labels_version
    others = list(dict.fromkeys(row["run"] for row in rows if by_id[row["run"]].labels_version != version))
    notes = []
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        notes.append(
            f"left out, because this report is of version {version} of the labels: {', '.join(others[:NAMED])}{more}. "
            f"`hela-store score RUN --labels-version {version}` scores their masks against it"
        )
    if version < store.labels_version:
        notes.append(f"these scores are of version {version} of the labels; the latest is {store.labels_version}")
    trained = {by_id[row["run"]].checkpoint for row in rows} & by_id.keys()
    for run in sorted(run for run in trained if run and by_id[run].labels_version != version):
        notes.append(f"{run} was trained on version {by_id[run].labels_version} of the labels")
    return version, tuple(notes)


def _latest(rows: Sequence[Row], by_id: Mapping[str, RunInfo]) -> list[Row]:
    """Keep the latest of each checkpoint, kind of run and prompt; image-free runs only where there is nothing else."""
    found = [row for row in rows if by_id[row["run"]].checkpoint != FREE] or rows
    latest = {}
    for row in found:
        run = by_id[row["run"]]
        latest[run.checkpoint, run.kind, _control(run), _label(run), row["prompt"]] = row
    return list(latest.values())


def _lines(rows: Sequence[Row], runs: Mapping[str, RunInfo], tuned_for: Mapping[str, str]) -> tuple[Line, ...]:
    """Return the lines of these runs, with names that are unique among those of a prompt."""
    found = []
    rows = [row for row in rows if row["run"] in runs]
    often = Counter((row["prompt"], _name(runs[row["run"]])) for row in rows)
    for row in rows:
        run = runs[row["run"]]
        name = _name(run)
        if often[row["prompt"], name] > 1:
            name += f" ({run.id[-4:]})"
        kind = run.checkpoint if run.kind == "baseline" and run.checkpoint else run.kind
        # one tuned for box fits box-exact, too
        base = row["prompt"].partition("-")[0]
        fits = tuned_for.get(run.checkpoint or "", "") in (base, "all")
        found.append(Line(run=run.id, name=name, kind=kind, prompt=row["prompt"], n=row["n"], fits=fits))
    return tuple(found)


def _detections(picked: Sequence[RunInfo], split: str, named: bool) -> tuple[RunInfo, ...]:
    """Return runs of detectors that looked at the block; unless named only the latest of each."""
    found = [run for run in picked if run.kind == "detect" and run.split in (split or run.split, "all")]
    latest = {(run.checkpoint, run.label): run for run in found}
    return tuple(found if named else latest.values())


def _mended(picked: Sequence[RunInfo], named: bool) -> tuple[RunInfo, ...]:
    """Return runs that mended masks; unless named only the latest of each folder of masks."""
    found = [run for run in picked if run.kind == "mend"]
    latest = {str(run.config.get("origin")): run for run in found}
    return tuple(found if named else latest.values())


def _label(run: RunInfo) -> str:
    """Return what tells runs of one checkpoint apart: nothing for an evaluation, its label for a baseline."""
    return "" if run.checkpoint else run.label


def _name(run: RunInfo) -> str:
    if run.kind == "baseline" and run.checkpoint:
        return NAIVE if run.checkpoint == FREE else f"{_short(run.checkpoint)} (baseline)"
    if run.kind not in ("evaluate", "control", "robustness"):
        return _short(run.id)
    name = _short(run.checkpoint) if run.checkpoint else ZERO_SHOT
    return f"{name}, {_control(run)}" if run.kind == "control" else name


CONTROLS = {"turned": "embedding turned", "mean": "mean embedding", "sequence": "another sequence's embedding"}
"""What controls decode with; earlier versions had frames alone and recorded True."""


def _control(run: RunInfo) -> str:
    return CONTROLS.get(str(run.config.get("foreign")), "another frame's embedding") if run.kind == "control" else ""


def _short(id: str) -> str:
    """Return a run id without the time it began."""
    return id.split("-", 2)[-1]


def _elsewhere(counts: Sequence[Row], by_id: Mapping[str, RunInfo], split: str) -> tuple[str, ...]:
    """Name the runs that are left out because they were scored on other blocks alone."""
    shown = {row["run"] for row in counts if row["split"] == split}
    blocks: dict[str, str] = {}
    for row in counts:
        if row["run"] not in shown:
            blocks[row["run"]] = row["split"]
    if not blocks:
        return ()
    names = [f"{_name(by_id[run])} on {SPLIT_NAMES.get(block, block)} frames ({run})" for run, block in blocks.items()]
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    left = "; ".join(names[:NAMED])
    return (
        f"left out, because this report is of {SPLIT_NAMES.get(split, split)} frames: {left}{more}. To see one, name "
        "it: `hela-store report RUN`",
    )


def _notes(picked: Sequence[RunInfo], counts: Sequence[Row], scored: bool) -> tuple[str, ...]:
    there = {row["run"] for row in counts}
    gone = [run.id for run in picked if run.kind in SCORING and run.id not in there]
    notes = [f"run {id} has no predictions; restore its folder, or score again: {EVALUATE_FIRST}" for id in gone]
    if not picked:
        notes.append(f"no run yet: {EVALUATE_FIRST}, `hela-store finetune --prompt box` fine-tunes it first")
    elif not scored:
        notes.append(f"nothing is scored yet: {EVALUATE_FIRST}")
    return tuple(notes)
