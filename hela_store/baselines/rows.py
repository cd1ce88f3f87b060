"""Rows of runs that are baselines, and how such a run is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hela_store.evaluation.rows import DETECTION_SCHEMA, PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.sequences import SequenceScores, labels_of, sequence_scores
from hela_store.evaluation.subsets import SubsetScore, pending_subsets
from hela_store.images.rle import Rle
from hela_store.metrics.cell import CellScores
from hela_store.metrics.overlap import Overlap
from hela_store.prompts.kinds import NO_PROMPT
from hela_store.runs.folder import new_run
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
    """

    run: str
    split: str
    prompts: dict[str, dict[str, float]]
    config: Mapping[str, Any]
    subsets: dict[str, dict[str, SubsetScore]]
    sequences: SequenceScores | None
    pending: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store baseline ... --json`` prints."""
        plain = {"run": self.run, "split": self.split, "prompts": self.prompts, "config": dict(self.config)}
        subsets = {kind: {name: asdict(score) for name, score in part.items()} for kind, part in self.subsets.items()}
        sequences = None if self.sequences is None else self.sequences.to_json()["sequences"]
        return plain | {"subsets": subsets, "sequences": sequences, "pending": self.pending}


@dataclass
class BaselineRun:
    """Rows of a run as they are gathered; ``detections`` is None for one that finds no cells of its own."""

    prompts: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] | None = None

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


def write_run(
    store: Store, config: Mapping[str, Any], run: BaselineRun, *, label: str, parent: str | None = None
) -> BaselineResult:
    """Publish gathered rows as a run of kind ``baseline``; ``parent`` is the run that trained what answered."""
    kinds = list(dict.fromkeys(row["kind"] for row in run.prompts))
    stored = dict(config) | {"encoder": store.key, "prompts": kinds}
    folder = new_run(store.path, "baseline", stored, parent=parent, label=label)
    with folder.tidied():
        folder.write_table("prompts", pa.Table.from_pylist(run.prompts, PROMPT_SCHEMA))
        folder.write_table("predictions", pa.Table.from_pylist(run.predictions, PREDICTION_SCHEMA))
        if run.detections is not None:
            folder.write_table("detections", pa.Table.from_pylist(run.detections, DETECTION_SCHEMA))
        folder.publish()
    of_kind = {kind: [i for i, row in enumerate(run.prompts) if row["kind"] == kind] for kind in kinds}
    means = {kind: _means([run.predictions[i] for i in index]) for kind, index in of_kind.items()}
    subsets, pending = pending_subsets(store, folder.id)
    found_cells = run.detections is not None and len(run.prompts) > 0
    return BaselineResult(
        run=folder.id,
        split=str(config["split"]),
        prompts=means,
        config=stored,
        subsets=subsets,
        pending=pending,
        sequences=sequence_scores(labels_of(store, folder.info)) if found_cells else None,
    )


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    columns = {"mean_iou": "iou", "mean_dice": "dice", "empty": "is_empty"}
    return {"n": len(rows)} | {name: float(np.mean([row[column] for row in rows])) for name, column in columns.items()}
