"""Name the parts of the cells on which one run is worse than its own mean, corrected for looking at many parts.

For every kind of prompt the mean over a part of the cells is compared with the mean over all cells of the same run. The
parts of one kind of prompt are one family, in which Holm's method (Scandinavian Journal of Statistics 1979) keeps the
chance of any false "worse" or "better" at 5 %: parts are taken in the order of their distance from the mean, in
standard errors, and each gets the interval of its step, which is wider the more parts are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2
from scipy.special import stdtr, stdtrit

from hela_store.catalog import index as catalog
from hela_store.errors import RecipeError, RunError
from hela_store.metrics.intervals import BLOCK_FRAMES, LEAST_BLOCKS, MARGIN, Interval, Units, Word, part_interval
from hela_store.runs.folder import load_run
from hela_store.store.store import Store

from .config import METRICS
from .parts import Part, Rows, more_parts, spacings, usual_parts
from .tracks import cell_tracks

CLUSTERS = 5
"""Parts by what the embedding says, where the store has vectors of the cells."""
COMPONENTS = 8
"""Principal components of the vectors that clusters are made in."""
LEAST_CELLS = 3
"""Parts with fewer cells, inside or outside, are left out."""
_ROWS = """
    SELECT m.prompt, m.cell, m.frame, m.sequence, m.time, m.split, m.{metric} AS value, m.area, c.mean_intensity,
        m.touches_neighbour, m.touches_border, c.eccentricity, m.is_bright_small, m.is_dim
    FROM cell_metrics m JOIN cells_at c ON c.cell = m.cell AND c.labels_version = m.labels_version
    WHERE m.run = $run AND m.{metric} IS NOT NULL ORDER BY m.prompt, m.cell, m.prompt_seed
"""
_VECTORS = """
    SELECT cell, any_value(vector) AS vector FROM cell_vectors
    WHERE encoder = $encoder AND list_contains($cells, cell) GROUP BY cell ORDER BY cell
"""
_PLACES = """
    SELECT cell, frame, cx, cy FROM cells_at
    WHERE labels_version = $version AND list_contains($frames, frame) ORDER BY cell
"""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One part of the cells under one kind of prompt, beside all cells.

    Attributes
    ----------
    prompt : kind of prompt
    part : name of the part, one of :data:`hela_store.evaluation.config.PARTS`, or ``"like 01/t070#12"``: the cells
        whose vectors form a cluster, with this cell in its middle
    n, cells : scored rows, and distinct cells among them
    mean, mean_all : of the part, and of all cells
    change : Interval
        ``mean`` less ``mean_all``, with the 95 % interval of this part alone.
    low, high : float
        The interval corrected for the number of parts; NaN where nothing can be measured.
    word : ``"worse"``, ``"better"``, ``"equivalent"`` or ``"undecided"`` by the corrected interval; ``""`` where the
        part has fewer than five blocks of frames. It is about this one training, so one seed is enough for it.
    """

    prompt: str
    part: str
    n: int
    cells: int
    mean: float
    mean_all: float
    change: Interval
    low: float
    high: float
    word: Word

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Describe what :func:`slices` found.

    Attributes
    ----------
    run, metric : str
    units : what the intervals count once, such as ``"intervals count each image once"``
    rows : list of Slice
        By kind of prompt, the worst part first.
    notes : what a reader has to know
    """

    run: str
    metric: str
    units: str
    rows: list[Slice]
    notes: list[str]

    def worse(self) -> list[Slice]:
        """Return the parts that are worse than the mean, beyond chance and margin."""
        return [row for row in self.rows if row.word == "worse"]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store slices --json`` prints."""
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}


def slices(store: Store, run: str, *, metric: str = "iou") -> Slices:
    """Compare parts of the cells of a run with all its cells.

    Parameters
    ----------
    store : Store
    run : a run id, its beginning, or ``"latest"``
    metric : one of :data:`hela_store.evaluation.config.METRICS`

    Raises
    ------
    RunError
        The run is unknown, or has no scored cells.
    RecipeError
        An unknown metric.
    """
    if metric not in METRICS:
        raise RecipeError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    info = load_run(store.path, run, latest_of="evaluate")
    store = store.at_labels(info.labels_version)
    table = catalog.query(store.path, _ROWS.format(metric=metric), {"run": info.id})
    if not len(table):
        raise RunError(
            f"run {info.id} (kind {info.kind}) has no cell with a score {metric}; give an evaluation, which "
            "`hela-store evaluate` makes"
        )
    rows = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    rows["spacing"] = _spacing(store, rows)
    rows["cluster"] = _cluster(store, info.encoder, rows["cell"])
    tracks = cell_tracks(store, sorted(set(rows["frame"].tolist())))
    units, found = tracks.units(rows["cell"].tolist()), []
    for prompt in dict.fromkeys(rows["prompt"].tolist()):
        asked = rows["prompt"] == prompt
        part = {name: column[asked] for name, column in rows.items()}
        found += _family(part, units.take(asked), prompt)
    told = any(row.word for row in found)
    notes = ["A verdict is about this run: one training. Another training seed may differ."] if told else []
    notes += [] if len(set(rows["split"])) < 2 else [f"the run scored {', '.join(sorted(set(rows['split'])))} together"]
    if not found:
        notes.append(f"no part has {LEAST_CELLS} cells, and as many outside; score more frames")
    if any(not row.word for row in found):
        notes.append(
            f"A part of the cells has no verdict if it lies in fewer than {LEAST_BLOCKS} groups of {BLOCK_FRAMES} "
            "neighbouring frames."
        )
    return Slices(run=info.id, metric=metric, units=str(tracks), rows=found, notes=notes)


def _spacing(store: Store, rows: Rows) -> npt.NDArray[np.float64]:
    """Return of each row how far the nearest labelled cells are, whether these were scored or not."""
    frames = sorted(set(rows["frame"].tolist()))
    table = catalog.query(store.path, _PLACES, {"frames": frames, "version": store.labels_version})
    places = np.stack([table["cx"].to_numpy(), table["cy"].to_numpy()], 1).astype(float)
    found = spacings(places, table["frame"].to_numpy(zero_copy_only=False))
    of = dict(zip(table["cell"].to_pylist(), found.tolist(), strict=True))
    return np.array([of[cell] for cell in rows["cell"].tolist()])


def _cluster(store: Store, encoder: str | None, cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return of each row the cluster of its cell's vector, named after the cell in its middle; ``""`` without vectors.

    The vectors are those that ``hela-store similar`` or ``store.cell_vectors()`` made before.
    """
    asked = {"encoder": encoder, "cells": sorted(set(cells.tolist()))}
    table = catalog.query(store.path, _VECTORS, asked)
    if len(table) < max(len(asked["cells"] or ()), CLUSTERS * LEAST_CELLS):
        return np.full(len(cells), "", object)
    values = np.array(table["vector"].to_pylist(), float)
    left, spread, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    points = left[:, :COMPONENTS] * spread[:COMPONENTS]
    centres, number = kmeans2(points, CLUSTERS, minit="++", seed=0, missing="warn")
    names = table["cell"].to_pylist()
    middle = [names[int(np.linalg.norm(points - centre, axis=1).argmin())] for centre in centres]
    of = {cell: f"like {middle[k]}" for cell, k in zip(names, number.tolist(), strict=True)}
    return np.array([of[cell] for cell in cells.tolist()], object)


def _clusters(rows: Rows) -> list[Part]:
    return [(str(name), rows["cluster"] == name) for name in sorted(set(rows["cluster"].tolist()) - {""})]


def _family(rows: Rows, units: Units, prompt: str) -> list[Slice]:
    """Return the parts of one kind of prompt, corrected for their number, worst first."""
    values, found = rows["value"].astype(float), []
    for name, chosen in _measurable([*usual_parts(rows), *more_parts(rows), *_clusters(rows)], rows):
        change = part_interval(values, units, chosen)
        found.append(
            Slice(
                prompt=prompt,
                part=name,
                n=int(chosen.sum()),
                cells=len(np.unique(rows["cell"][chosen])),
                mean=float(values[chosen].mean()),
                mean_all=float(values.mean()),
                change=change,
                low=change.low,
                high=change.high,
                word=change.standing,
            )
        )
    return sorted(corrected(found), key=lambda row: row.change.mean)


def _measurable(parts: Sequence[Part], rows: Rows) -> list[Part]:
    """Return the parts that are neither nearly empty nor nearly everything."""
    counts = ((part, len(np.unique(rows["cell"][part[1]])), len(np.unique(rows["cell"][~part[1]]))) for part in parts)
    return [part for part, inside, outside in counts if min(inside, outside) >= LEAST_CELLS]


def corrected(family: Sequence[Slice]) -> list[Slice]:
    """Return parts with the intervals and words of their steps in Holm's method.

    Parameters
    ----------
    family : all parts that one looks at together
    """
    measured = [row for row in family if not math.isnan(row.change.low)]
    levels = [_beyond(row.change) for row in measured]
    order = np.argsort(levels, kind="stable")
    steps, reached = {}, len(measured)
    for done, index in enumerate(order):
        # after the first part that does not pass, no later one gets a narrower interval than it had
        steps[id(measured[index])] = reached
        if levels[index] <= 0.025 / reached:
            reached = len(measured) - done - 1
    return [_at_step(row, steps[id(row)]) if id(row) in steps else replace(row, word="") for row in family]


def _beyond(change: Interval) -> float:
    """Return the one-sided p-value of the part being further from the mean than :data:`MARGIN`."""
    distance = abs(change.mean) - MARGIN
    if change.error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(change.df, -distance / change.error))


def _at_step(row: Slice, parts: int) -> Slice:
    half = row.change.error * float(stdtrit(row.change.df, 1 - 0.025 / parts))
    ends = replace(row.change, low=row.change.mean - half, high=row.change.mean + half)
    word = "" if row.change.blocks < LEAST_BLOCKS else ends.standing
    shown = ends.within(-1, 1)
    return replace(row, low=shown.low, high=shown.high, word=word)
