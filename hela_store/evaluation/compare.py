"""Runs beside each other on the same cells: who is better, by how much, and is it more than chance.

Rows are paired on (prompt, prompt seed, cell). Runs without prompts (kind ``none`` in their rows: baselines that found
the cells themselves) are paired with every prompt of the other side, cell by cell. The first variant is what the others
are compared with; a variant is one run, or one for each training seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.progress import Progress, silent
from hela_store.base.text import counted
from hela_store.catalog import index as catalog
from hela_store.embedding.encoders import seen_notes
from hela_store.errors import RecipeError, RunError
from hela_store.metrics.intervals import (
    BLOCK_FRAMES,
    LEAST_BLOCKS,
    LEAST_SEEDS,
    Interval,
    Units,
    crossed_interval,
    numbered,
    per_frame_weights,
)
from hela_store.runs.folder import load_run
from hela_store.store.store import Store

from .config import METRICS
from .parts import usual_parts
from .spread import FrameSpread, frame_spread
from .tracks import CellTracks, cell_tracks

Rows = dict[str, npt.NDArray[Any]]
"""Columns of equal length, by name."""

_PAIRS = """
SELECT
    if(a.prompt = 'none', b.prompt, a.prompt) AS prompt, a.cell, a.frame, a.sequence, a.time, a.{metric} AS a,
    b.{metric} AS b, a.area, c.mean_intensity, a.touches_neighbour, a.is_bright_small, a.is_dim
FROM cell_metrics a JOIN cell_metrics b ON a.cell = b.cell
    JOIN cells_at c ON c.cell = a.cell AND c.labels_version = a.labels_version
WHERE a.run = $a AND b.run = $b AND a.{metric} IS NOT NULL AND b.{metric} IS NOT NULL
    AND (a.prompt = 'none' OR b.prompt = 'none' OR (a.prompt = b.prompt AND a.prompt_seed = b.prompt_seed))
ORDER BY prompt, a.cell, a.prompt_seed, b.prompt_seed
"""

_ASKED = """
WITH
    shared AS (SELECT kind FROM prompts WHERE run = $a INTERSECT SELECT kind FROM prompts WHERE run = $b),
    of_a AS (SELECT {columns} FROM prompts WHERE run = $a AND kind IN (FROM shared)),
    of_b AS (SELECT {columns} FROM prompts WHERE run = $b AND kind IN (FROM shared))
SELECT
    (SELECT count(*) FROM (FROM of_a EXCEPT ALL FROM of_b)) AS only_a,
    (SELECT count(*) FROM (FROM of_b EXCEPT ALL FROM of_a)) AS only_b
"""
_QUESTION = "kind, prompt_seed, cell"
_PLACE = "x0, y0, x1, y1, points, point_labels, params"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One line of the table: a variant less the first, over paired rows.

    Attributes
    ----------
    variant : runs of the variant, joined by commas
    prompt : prompt kind
    subset : ``"all"``, or which part of the cells
    n, cells : paired rows, and distinct cells among them
    mean_a, mean_b : of the first variant and of this one
    mean, median : of the differences b - a
    better, worse : share of rows with a difference above and below 0
    per_cell, per_frame : Interval
        Of the mean over rows, and of the mean over frames.
    by_seed : mean difference of each training seed
    frames : FrameSpread
        Of the mean differences of the frames.
    """

    variant: str
    prompt: str
    subset: str
    n: int
    cells: int
    mean_a: float
    mean_b: float
    mean: float
    median: float
    better: float
    worse: float
    per_cell: Interval
    per_frame: Interval
    by_seed: list[float]
    frames: FrameSpread

    @property
    def is_exploratory(self) -> bool:
        """Whether this is one of many subsets, whose intervals are not corrected for their number."""
        return self.subset != "all"

    @property
    def word(self) -> str:
        """Better, worse, equivalent or undecided, by the interval per cell; ``""`` where few units or a subset."""
        return "" if self.is_exploratory else self.per_cell.word

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the words."""
        row = asdict(self) | {"word": self.word, "exploratory": self.is_exploratory}
        row["per_frame"]["word"] = "" if self.is_exploratory else self.per_frame.word
        return row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Describe what :func:`compare` found.

    Attributes
    ----------
    metric : str
    first : runs of the first variant, joined by commas
    scored : dict of run to its number of scored rows
    rows : list of Difference
    notes : what a reader has to know, such as rows without a partner or too few training seeds
    units : what the intervals count once, such as ``"intervals count each image once"``
    """

    metric: str
    first: str
    scored: dict[str, int]
    rows: list[Difference]
    notes: list[str]
    units: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store compare --json`` prints."""
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}


def compare(
    store: Store, variants: Sequence[str | Sequence[str]], *, metric: str = "iou", progress: Progress = silent
) -> Comparison:
    """Compare variants with the first of them.

    Parameters
    ----------
    variants : two or more; each a run id (or its beginning), several joined by commas, or a sequence of ids
        Several runs of one variant are its training seeds, and are paired in the order given with those of the other;
        a variant of one run is paired with each. Runs that scored the same weights count as one seed.
    metric : one of :data:`METRICS`

    Raises
    ------
    RunError
        An unknown run, one given twice in a variant, runs that share no scored cell, runs that were scored against
        different versions of the labels, runs of different encoders with
        other cells or prompts, or numbers of runs that do not pair.
    RecipeError
        An unknown metric.
    """
    if metric not in METRICS:
        raise RecipeError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    if len(variants) < 2:
        raise RunError(f"{len(variants)} run to compare, expected two or more")
    named = [v.split(",") if isinstance(v, str) else list(v) for v in variants]
    runs = [[load_run(store.path, name.strip(), latest_of="evaluate").id for name in part] for part in named]
    for part in runs:
        if twice := next((run for run in part if part.count(run) > 1), None):
            raise RunError(f"run {twice} is given twice in one variant; expected a run for each training seed")
    everyone = list(dict.fromkeys(run for part in runs for run in part))
    store = store.at_labels(_labels_version(store, everyone))
    counted = f"SELECT run, count({metric}) AS n FROM cell_metrics WHERE list_contains($runs, run) GROUP BY run"
    counts = catalog.query(store.path, counted, {"runs": everyone}).to_pylist()
    scored = dict.fromkeys(everyone, 0) | {row["run"]: row["n"] for row in counts}
    rows: list[Difference] = []
    notes: list[str] = []
    paired = [_pairs(store, runs[0], other, metric, scored, notes) for other in runs[1:]]
    tracks = cell_tracks(store, [frame for pairs in paired for frame in set(pairs["frame"].tolist())])
    for other, pairs in progress(list(zip(runs[1:], paired, strict=True)), total=len(paired), what="compare"):
        rows += _differences(pairs, ",".join(other), tracks)
    encoders = {run: load_run(store.path, run).encoder for run in everyone}
    if len({key for key in encoders.values() if key}) > 1:
        keys = [" and ".join(dict.fromkeys(encoders[run] or "none" for run in part)) for part in runs]
        notes.append(f"encoders, in the order given: {', '.join(keys)}")
    notes += seen_notes(store, encoders.values())
    notes += _few(tracks, max(row.per_cell.blocks for row in rows if row.subset == "all"))
    first = ",".join(runs[0])
    return Comparison(metric=metric, first=first, scored=scored, rows=rows, notes=notes, units=str(tracks))


def _labels_version(store: Store, runs: Sequence[str]) -> int:
    """Return the version of the labels that runs were scored against; RunError where they are several."""
    versions = {run: load_run(store.path, run).labels_version for run in runs}
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{run} version {version}" for run, version in versions.items())
        raise RunError(
            f"these runs were scored against different versions of the labels ({told}), so that a difference may come "
            f"from the labels; score them again with `hela-store score {' '.join(runs)} --labels-version latest` and "
            "compare the runs that this makes"
        )
    return next(iter(versions.values()))


def _few(tracks: CellTracks, blocks: int) -> list[str]:
    """Return a note where there are too few blocks for a word."""
    if blocks >= LEAST_BLOCKS:
        return []
    if tracks.is_stills:
        return [f"{counted(blocks, 'image')}: fewer than {LEAST_BLOCKS} images give numbers but no verdict"]
    groups = f"{counted(blocks, 'group')} of up to {BLOCK_FRAMES} neighbouring frames"
    return [f"{groups}: fewer than {LEAST_BLOCKS} groups give numbers but no verdict"]


def _pairs(
    store: Store, first: list[str], other: list[str], metric: str, scored: dict[str, int], notes: list[str]
) -> Rows:
    if len(first) != len(other) and 1 not in (len(first), len(other)):
        raise RunError(f"{len(first)} runs against {len(other)}; give as many of each, one for each training seed")
    both = [(first[i % len(first)], other[i % len(other)]) for i in range(max(len(first), len(other)))]
    # two scorings of the same weights are no two trainings
    trainings = numbered([(_weights(store, a), _weights(store, b)) for a, b in both])
    seeds, parts = len(set(trainings.tolist())), []
    for (a, b), seed in zip(both, trainings, strict=True):
        _check_asked(store, a, b)
        pairs = catalog.query(store.path, _PAIRS.format(metric=metric), {"a": a, "b": b})
        if not len(pairs):
            found = f"{a} has {scored[a]} scored cells, {b} has {scored[b]}, and none is the same"
            raise RunError(f"{found} under the same prompt and seed; give two evaluations of one split and prompt")
        if len(pairs) < max(scored[a], scored[b]):
            notes.append(f"{len(pairs)} rows match of {scored[a]} of {a} and {scored[b]} of {b}; only these count")
        parts.append(pairs.append_column("seed", pa.array(np.full(len(pairs), seed))))
    if seeds < LEAST_SEEDS:
        plural = "" if seeds == 1 else "s"
        many = f"{seeds} training seed{plural} of {','.join(other)}"
        notes.append(f"{many}: fewer than {LEAST_SEEDS} give numbers but no verdict; give 3, as A1,A2,A3")
    table = pa.concat_tables(parts)
    return {name: table[name].to_numpy() for name in table.column_names}


def _check_asked(store: Store, a: str, b: str) -> None:
    """Raise RunError where two runs of different encoders were not asked the same of the same cells."""
    keys = [load_run(store.path, run).encoder for run in (a, b)]
    if keys[0] == keys[1] or not all(keys):
        return
    for columns, what in ((_QUESTION, "cells or prompt seeds"), (f"{_QUESTION}, {_PLACE}", "prompts")):
        found = catalog.query(store.path, _ASKED.format(columns=columns), {"a": a, "b": b}).to_pylist()[0]
        if found["only_a"] or found["only_b"]:
            raise RunError(
                f"{a} (encoder {keys[0]}) and {b} (encoder {keys[1]}) were not given the same {what}: "
                f"{found['only_a']} only the first, {found['only_b']} only the second; evaluate both with the same "
                "--split, --prompt and --prompt-seeds"
            )


def _weights(store: Store, run: str) -> str:
    """Return which weights a run scored."""
    return str(load_run(store.path, run).config.get("checkpoint", run))


def _differences(pairs: Rows, variant: str, tracks: CellTracks) -> list[Difference]:
    pairs = pairs | {"row": np.arange(len(pairs["cell"]))}
    units = tracks.units(pairs["cell"].tolist(), pairs["seed"])
    found = []
    for prompt in dict.fromkeys(pairs["prompt"].tolist()):
        asked = _where(pairs, pairs["prompt"] == prompt)
        parts = [("all", np.ones(len(asked["cell"]), bool)), *usual_parts(asked)]
        for subset, part in ((name, _where(asked, chosen)) for name, chosen in parts):
            if len(part["cell"]):
                found.append(_difference(part, units.take(part["row"]), variant, prompt, subset))
    return found


def _where(rows: Rows, chosen: npt.NDArray[np.bool_]) -> Rows:
    return {name: column[chosen] for name, column in rows.items()}


def _difference(rows: Rows, units: Units, variant: str, prompt: str, subset: str) -> Difference:
    change = rows["b"].astype(float) - rows["a"].astype(float)
    weights = per_frame_weights(list(zip(rows["seed"].tolist(), rows["frame"], strict=True)))
    return Difference(
        variant=variant,
        prompt=prompt,
        subset=subset,
        n=len(change),
        cells=len(np.unique(rows["cell"])),
        mean_a=float(rows["a"].mean()),
        mean_b=float(rows["b"].mean()),
        mean=float(change.mean()),
        median=float(np.median(change)),
        better=float(np.mean(change > 0)),
        worse=float(np.mean(change < 0)),
        per_cell=crossed_interval(change, units).within(-1, 1),
        per_frame=crossed_interval(change, units, weights).within(-1, 1),
        by_seed=[float(change[rows["seed"] == seed].mean()) for seed in np.unique(rows["seed"])],
        frames=frame_spread(change, rows["frame"].tolist()),
    )
