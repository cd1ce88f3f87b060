"""The lines of a study's table: means over the runs of a method, their spread, and how far they are from zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from hela_store.catalog import index as catalog
from hela_store.evaluation.compare import compare
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.evaluation.spread import FrameSpread, frame_spread
from hela_store.metrics.failures import FAILURES
from hela_store.metrics.intervals import Interval
from hela_store.metrics.overlap import skill
from hela_store.store.store import Store

_FAILURES = ", ".join(f"count(*) FILTER (m.failure = '{name}') AS \"{name}\"" for name in FAILURES)
_MEANS = f"""
SELECT m.run, count(*) AS n, count(DISTINCT m.cell) AS cells, avg(m.iou) AS iou, avg(m.dice) AS dice,
    avg(m.is_empty::INT) AS empty_share, avg(m.hd95) AS hd95, avg(m.hd95) FILTER (NOT m.is_empty) AS hd95_found,
    median(m.hd95) AS hd95_median,
    avg(if(m.is_empty, sqrt(coalesce(v.width, f.width)**2 + coalesce(v.height, f.height)**2), m.hd95)) AS hd95_worst,
    count(*) FILTER (NOT m.is_empty) AS n_found, avg(m.boundary_iou) AS boundary_iou,
    greatest(avg(p.free_iou), avg(p.free_ellipse_iou)) AS free_iou,
    {_FAILURES}
FROM cell_metrics m
JOIN prompts p ON p.run = m.run AND p.kind = m.prompt AND p.prompt_seed = m.prompt_seed AND p.cell = m.cell
JOIN frames f ON f.frame = m.frame
LEFT JOIN views v ON v.view = m.view AND v.frame = m.frame
WHERE list_contains($runs, m.run) AND m.prompt = $prompt GROUP BY m.run ORDER BY m.run
"""
_BY_FRAME = """
SELECT frame, avg(iou) AS iou FROM cell_metrics WHERE list_contains($runs, run) AND prompt = $prompt
GROUP BY frame ORDER BY frame
"""

_OF_CELLS = """
SELECT avg(iou) AS iou FROM cell_metrics
WHERE list_contains($runs, run) AND prompt = $prompt AND cell IN (SELECT unnest($cells))
"""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Mean IoU less that of zero-shot on the same prompts, with intervals over tracks, frames and training seeds.

    ``units`` says how the tracks were found; ``by_seed`` is the mean of each training seed.
    """

    per_cell: Interval
    per_frame: Interval
    by_seed: list[float]
    units: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values with the words."""
        parts = {"per_cell": self.per_cell, "per_frame": self.per_frame}
        found = {name: asdict(part) | {"word": part.word} for name, part in parts.items()}
        return found | {"by_seed": self.by_seed, "units": self.units}


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One method under one prompt; means over its runs, one run for each training seed.

    Attributes
    ----------
    method : such as ``"zero-shot"`` or ``"tuned for box"``
    prompt : kind; ``"none"`` of a baseline that finds cells itself
    runs : that were scored
    n, cells : predictions of one run, and distinct cells
    iou, dice : empty predictions count as 0
    iou_spread, dice_spread : standard deviation over the runs; None of a single run
    free_iou, over_free, skill : of the better of the image-free answers to the same prompts, the gain over it, and the
        share won of what it leaves open (rule "image-free rows"); None without a prompt
    boundary_iou : float
    iou_runs, dice_runs : of each run, in their order
    frames : IoU by frame, mean over the runs
    hd95, hd95_found, n_found : px; with empty predictions as the cell's diameter, without them, and how many those are
    hd95_median, hd95_worst : px; the median, and the mean with empty predictions as the diagonal of their view
    empty : share of empty predictions
    failures : how many predictions failed each way, mean over the runs
    seg, det : by sequence, mean over the runs, first prompt seed; only of a run without prompts these are SEG and DET,
        of others ``SEG (oracle prompts)`` (rule "names")
    unseen, iou_unseen : number and IoU of the cells that no training frame holds; None where all or none are such
    gain : over zero-shot; None of zero-shot itself and of what has no prompt
    """

    method: str
    prompt: str
    runs: tuple[str, ...]
    n: int
    cells: int
    iou: float
    iou_spread: float | None
    iou_runs: tuple[float, ...]
    dice: float
    dice_spread: float | None
    dice_runs: tuple[float, ...]
    frames: FrameSpread
    free_iou: float | None
    over_free: float | None
    skill: float | None
    boundary_iou: float | None
    hd95: float | None
    hd95_found: float | None
    hd95_median: float | None
    hd95_worst: float | None
    n_found: float
    empty: float
    failures: dict[str, float]
    seg: dict[str, float]
    det: dict[str, float]
    unseen: int | None = None
    iou_unseen: float | None = None
    gain: Gain | None = None

    @property
    def is_label_free(self) -> bool:
        """Whether no prompt was made from the truth, so that SEG may be called SEG."""
        return self.prompt == "none"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, SEG and DET under their right names."""
        row = asdict(self) | {"gain": None if self.gain is None else self.gain.to_json()}
        suffix = "" if self.is_label_free else " (oracle prompts)"
        return row | {f"SEG{suffix}": row.pop("seg"), f"DET{suffix}": row.pop("det")}


def study_row(
    store: Store,
    method: str,
    prompt: str,
    runs: Sequence[str],
    zero: str | None = None,
    metric: str = "iou",
    unseen: Sequence[str] | None = None,
) -> StudyRow:
    """Return the line of a method.

    Parameters
    ----------
    runs : published runs with rows of ``prompt``
    zero : the zero-shot evaluation to compare with
    metric : that the gain is measured in
    unseen : cells that no training frame holds, see :func:`hela_store.evaluation.tracks.unseen_cells`

    Raises
    ------
    RunError
        A run shares no scored cell with ``zero``.
    """
    found = catalog.query(store.path, _MEANS, {"runs": list(runs), "prompt": prompt}).to_pylist()
    means = {name: _mean([row[name] for row in found]) for name in found[0] if name != "run"}
    iou, free = [row["iou"] for row in found], means["free_iou"]
    scores = [sequence_scores(run_labels(store, run, None if prompt == "none" else prompt)) for run in runs]
    parts = [part for score in scores for part in score.sequences]
    sequences = list(dict.fromkeys(part.sequence for part in parts))
    det = [(part.sequence, part.det) for part in parts if part.det is not None]
    return StudyRow(
        method=method,
        prompt=prompt,
        runs=tuple(runs),
        n=found[0]["n"],
        cells=found[0]["cells"],
        iou=fmean(iou),
        iou_spread=_spread(iou),
        iou_runs=tuple(iou),
        dice=fmean(row["dice"] for row in found),
        dice_spread=_spread([row["dice"] for row in found]),
        dice_runs=tuple(row["dice"] for row in found),
        frames=_frames(store, runs, prompt),
        free_iou=free,
        over_free=None if free is None else fmean(iou) - free,
        skill=None if free is None else skill(fmean(iou), free),
        failures={name: means[name] or 0.0 for name in FAILURES},
        n_found=means["n_found"] or 0.0,
        empty=means["empty_share"] or 0.0,
        **{name: means[name] for name in ("boundary_iou", "hd95", "hd95_found", "hd95_median", "hd95_worst")},
        seg={name: fmean(part.seg for part in parts if part.sequence == name) for name in sequences},
        det={name: fmean(value for own, value in det if own == name) for name in sequences if name in dict(det)},
        unseen=len(unseen) if unseen else None,
        iou_unseen=_iou_of(store, runs, prompt, unseen) if unseen else None,
        gain=None if zero is None else _gain(store, zero, runs, prompt, metric),
    )


def _gain(store: Store, zero: str, runs: Sequence[str], prompt: str, metric: str) -> Gain:
    found = compare(store, [zero, list(runs)], metric=metric)
    row = next(row for row in found.rows if row.prompt == prompt and row.subset == "all")
    return Gain(per_cell=row.per_cell, per_frame=row.per_frame, by_seed=row.by_seed, units=found.units)


def _iou_of(store: Store, runs: Sequence[str], prompt: str, cells: Sequence[str]) -> float | None:
    asked = {"runs": list(runs), "prompt": prompt, "cells": list(cells)}
    found: float | None = catalog.query(store.path, _OF_CELLS, asked)["iou"][0].as_py()
    return found


def _frames(store: Store, runs: Sequence[str], prompt: str) -> FrameSpread:
    rows = catalog.query(store.path, _BY_FRAME, {"runs": list(runs), "prompt": prompt})
    return frame_spread(rows["iou"].to_numpy(), rows["frame"].to_pylist())


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
