"""Rows of runs that are baselines, and how such a run is published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hela_store.base.progress import Progress, silent
from hela_store.evaluation.covered import keep_frames
from hela_store.evaluation.reads import data_read, labels_read
from hela_store.evaluation.rows import DETECTION_SCHEMA, PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.sequences import SequenceScores, labels_of, sequence_scores
from hela_store.evaluation.subsets import SubsetScore, pending_subsets
from hela_store.images.rle import Rle
from hela_store.metrics.cell import CellScores
from hela_store.metrics.overlap import Overlap
from hela_store.prompts.kinds import NO_PROMPT
from hela_store.runs.finished import claim_run, find_finished
from hela_store.runs.folder import RunInfo, new_run, package_version
from hela_store.runs.info import to_json
from hela_store.store.records import CellRecord
from hela_store.store.store import Store


@dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """A baseline's run and its mean IoU and Dice by prompt kind, missed cells at 0.

    Attributes
    ----------
    run : id
    split : block that was scored
    prompts : kind to ``{"n", "mean_iou", "mean_dice", "empty"}``
    config : the run's resolved configuration
    subsets : means over touching, dim, and bright and small cells, by prompt kind
    sequences : SEG, DET and count errors of cells that were found without a prompt; None of others
    pending : why the catalog, which ``subsets`` come from, cannot be read now; empty where it can
    reused : whether the run was finished before it was asked for
    """

    run: str
    split: str
    prompts: dict[str, dict[str, float]]
    config: Mapping[str, Any]
    subsets: dict[str, dict[str, SubsetScore]]
    sequences: SequenceScores | None
    pending: str = ""
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store baseline ... --json`` prints."""
        plain = {"run": self.run, "split": self.split, "prompts": self.prompts, "config": dict(self.config)}
        subsets = {kind: {name: asdict(score) for name, score in part.items()} for kind, part in self.subsets.items()}
        sequences = None if self.sequences is None else self.sequences.to_json()["sequences"]
        return plain | {"subsets": subsets, "sequences": sequences, "pending": self.pending, "reused": self.reused}

    def spent(self) -> str:
        """Return what the baseline was made with, beside which the decoder's own is stated; empty where it is free."""
        spent = self.config.get("spent")
        if not spent:
            return ""
        rates = ", ".join(f"{rate} (SEG {value:.4f})" for rate, value in self.config.get("rates", {}).items())
        own = f"cost: {_budget(spent)}" + (f" for each learning rate of {rates} on validation" if rates else "")
        decoder = self.config.get("decoder_spent")
        return own + (f"; the latest fine-tuned decoder: {_budget(decoder)}" if decoder else "")


def _budget(spent: Mapping[str, Any]) -> str:
    seconds = spent.get("seconds")
    what = f"{spent['trials']} trials" if "trials" in spent else f"{spent['steps']} steps"
    return what + ("" if seconds is None else f", {seconds:.1f} s")


def decoder_spent(store: Store) -> dict[str, Any] | None:
    """Return the steps and seconds of the latest fine-tuning: what a baseline's budget is compared with."""
    run = find_finished(store.path, "finetune", lambda run: True)
    if run is None:
        return None
    return {
        "steps": run.config.get("steps"),
        "seconds": next((r["seconds"] for r in run.log() if "seconds" in r), None),
    }


@dataclass
class BaselineRun:
    """Rows of a run as they are gathered, and its frames; ``detections`` is None of one that finds no cells itself."""

    prompts: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] | None = None
    frames: list[str] = field(default_factory=list)

    def add_cell(self, cell: CellRecord, split: str, shared: Overlap, rle: Rle, detail: CellScores) -> None:
        """Add a cell of a block that was found without a prompt, or missed (an empty mask)."""
        place = {"prompt_id": f"{len(self.prompts):06d}", "cell": cell.cell, "frame": cell.frame}
        about = {"kind": NO_PROMPT, "origin": "label-free", "prompt_seed": 0, "split": split, "cut": False}
        self.prompts.append(place | about | {"points": [], "point_labels": [], "params": "{}"})
        mask = {"rle": rle.counts, "rle_height": rle.height, "rle_width": rle.width}
        scores = {"iou": shared.iou, "dice": shared.dice, "is_empty": detail.failure == "empty"}
        self.predictions.append(place | asdict(detail) | mask | scores)


def found_row(frame: str, split: str, number: int, box: tuple[int, int, int, int], rle: Rle) -> dict[str, Any]:
    """Return the row of an object of a frame, without what it matches; its score is 1, since there is none."""
    corners = dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))
    about = {"detection": f"{frame}@{number}", "split": split, "frame": frame, "score": 1.0}
    return about | corners | {"rle": rle.counts, "rle_height": rle.height, "rle_width": rle.width}


def once(
    store: Store,
    asked: Mapping[str, Any],
    make: Callable[[Mapping[str, Any]], BaselineResult],
    *,
    fresh: bool = False,
    progress: Progress = silent,
) -> BaselineResult:
    """Return the finished baseline that was asked for, or make it: test would count as scored twice for one answer.

    Parameters
    ----------
    store : Store
    asked : mapping
        All that decides the baseline but the frames, with its ``"method"`` and ``"split"``.
    make : callable
        Makes the run; what it is given goes into the run's configuration as ``asked``.
    fresh : bool
        Make another run in any case.
    progress : Progress
        Shown while another process is at it.
    """
    wanted = dict(asked) | data_read(store, ("train", "val", asked["split"]))
    plain: dict[str, Any] = json.loads(to_json(wanted))

    def same(run: RunInfo) -> bool:
        # masks that were scored again keep what was asked, but not for which labels
        is_own = "rescored" not in run.config
        return is_own and run.config.get("asked") == plain and run.version == package_version()

    with nullcontext() if fresh else claim_run(store.path, "baseline", plain, progress=progress):
        done = None if fresh else find_finished(store.path, "baseline", same)
        return make(plain) if done is None else _result(store, done, reused=True)


def write_run(
    store: Store, config: Mapping[str, Any], run: BaselineRun, *, label: str, parent: str | None = None
) -> BaselineResult:
    """Publish gathered rows as a run of kind ``baseline``; ``parent`` is the run that trained what answered."""
    kinds = list(dict.fromkeys(row["kind"] for row in run.prompts))
    stored = (
        dict(config)
        | {"encoder": store.key, "prompts": kinds, "decoder_spent": decoder_spent(store)}
        | labels_read(store)
    )
    folder = new_run(store.path, "baseline", stored, parent=parent, label=label)
    with folder.tidied():
        folder.write_table("prompts", pa.Table.from_pylist(run.prompts, PROMPT_SCHEMA))
        folder.write_table("predictions", pa.Table.from_pylist(run.predictions, PREDICTION_SCHEMA))
        if run.detections is not None:
            folder.write_table("detections", pa.Table.from_pylist(run.detections, DETECTION_SCHEMA))
            keep_frames(folder, run.frames)
        folder.publish()
    return _result(store, folder.info)


def _result(store: Store, run: RunInfo, *, reused: bool = False) -> BaselineResult:
    """Return what follows from the files of a published run."""
    kind_of = {row["prompt_id"]: row["kind"] for row in run.rows("prompts", ["prompt_id", "kind"])}
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kind_of.values()}
    for row in run.rows("predictions", ["prompt_id", "iou", "dice", "is_empty"]):
        rows[kind_of[row["prompt_id"]]].append(row)
    subsets, pending = pending_subsets(store, run.id)
    return BaselineResult(
        run=run.id,
        split=str(run.config["split"]),
        prompts={kind: _means(part) for kind, part in rows.items()},
        config=run.config,
        subsets=subsets,
        pending=pending,
        sequences=sequence_scores(labels_of(store, run)) if NO_PROMPT in rows else None,
        reused=reused,
    )


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    columns = {"mean_iou": "iou", "mean_dice": "dice", "empty": "is_empty"}
    return {"n": len(rows)} | {name: float(np.mean([row[column] for row in rows])) for name, column in columns.items()}
