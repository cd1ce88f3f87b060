"""Score the stored masks of a run against another version of the labels, as a new run; no decoder runs.

A cell of the run is the cell of the other version with which it shares most pixels, whatever its label, if they are
more than half of the smaller of both. Of several cells of the run in one, as after a merge, the one that shares most
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hela_store.base.aliases import LabelArray
from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError
from hela_store.images.geometry import Rect, holds_whole, tile_rectangles
from hela_store.images.labels import shared_pixels
from hela_store.images.rle import decode_crop
from hela_store.metrics.overlap import overlap
from hela_store.prompts.draw import cell_context, make_prompt
from hela_store.prompts.image_free import ellipse_score, image_free_score
from hela_store.prompts.prompt import Prompt
from hela_store.runs.folder import RunInfo, load_run, new_run, run_ids
from hela_store.sam.predict import Prediction
from hela_store.store.records import CellRecord, ViewRecord
from hela_store.store.store import Store

from .frames import Tile, median_training_radius
from .questions import FIRST, Question, Score, with_details
from .reads import labels_read
from .reuse import claim_scoring
from .rows import PREDICTION_SCHEMA, PROMPT_SCHEMA, prediction_row
from .scores import summarise

KINDS = ("evaluate", "control", "robustness", "baseline")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """Describe a run that was scored against another version of the labels.

    Attributes
    ----------
    run, before : str
        Ids of the new run and of the one whose masks it scored.
    labels_version, labels_before : int
        Versions of the labels that these two were scored against.
    trained : int or None
        The version that the checkpoint was trained on; None for zero-shot.
    n : int
        Number of masks scored.
    mean_iou, mean_iou_before : float
        Mean IoU of these masks with the labels now and before.
    gone : int
        Masks that were left out, because their cell is no more.
    unanswered : int
        Cells of these frames that the run has no mask for.
    left_out : int
        Masks that were left out, because their prompt was a mask that is not stored: an earlier answer, or a user's.
    reused : bool
        Whether the run was finished before it was asked for.
    """

    run: str
    before: str
    labels_version: int
    labels_before: int
    trained: int | None
    n: int
    mean_iou: float
    mean_iou_before: float
    gone: int
    unanswered: int
    left_out: int
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def rescore(
    store: Store, run: str, version: int | None = None, *, fresh: bool = False, progress: Progress = silent
) -> Rescored:
    """Score the stored masks of an evaluation against a version of the labels; the old run stays as it is.

    Parameters
    ----------
    store : Store
    run : str
        Its id, its beginning, or ``"latest"`` for the latest evaluation or baseline.
    version : int, optional
        Version of the labels, 0 as ingested; the latest by default.
    fresh : bool
        Score again what was scored before.

    Raises
    ------
    RunError
        The run has no masks for prompts, was scored against this version already, or none of its cells is left.
    StoreError
        There is no such version.
    """
    info = load_run(store.path, run, latest_of=("evaluate", "baseline"))
    now, old = store.at_labels(version), store.at_labels(info.labels_version)
    if info.kind not in KINDS or not info.has("predictions.parquet") or info.has("detections.parquet"):
        raise RunError(
            f"run {info.id} of kind {info.kind} keeps no masks that were asked for with prompts; make it again with "
            "the command that made it, which reads the latest labels"
        )
    if now.labels_version == info.labels_version:
        raise RunError(f"run {info.id} was scored against version {info.labels_version} of the labels already")
    about = {name: value for name, value in info.config.items() if name != "labels_version"}
    about |= {"rescored": info.id} | labels_read(now)
    with claim_scoring(store, info.kind, about, fresh=fresh, progress=progress) as done:
        if done is not None:
            return replace(_result(store, info, done), reused=True)
        folder = new_run(
            store.path, info.kind, about, parent=info.parent, label=f"{info.split}-labels-{now.labels_version}"
        )
        with folder.tidied():
            scored = _Rescoring(info=info, old=old, now=now).rows(progress)
            if not scored.scores:
                raise RunError(
                    f"version {now.labels_version} of the labels has no cell that run {info.id} has a mask for"
                )
            folder.write_table("prompts", pa.Table.from_pylist(scored.prompts, PROMPT_SCHEMA))
            folder.write_table("predictions", pa.Table.from_pylist(scored.predictions, PREDICTION_SCHEMA))
            prompts = {name: score.to_json() for name, score in summarise(scored.scores).items()}
            counts = {name: getattr(scored, name) for name in ("gone", "unanswered", "left_out")}
            counts |= {"mean_iou_before": float(np.mean(scored.ious_before))}
            folder.log(result={"prompts": prompts, "rescored": counts})
            folder.publish()
    return _result(store, info, folder.info)


def _result(store: Store, before: RunInfo, run: RunInfo) -> Rescored:
    ious = [row["iou"] for row in run.rows("predictions", ["iou"])]
    # a baseline names its method here
    checkpoint = run.checkpoint if run.checkpoint in run_ids(store.path) else None
    return Rescored(
        run=run.id,
        before=before.id,
        labels_version=run.labels_version,
        labels_before=before.labels_version,
        trained=None if checkpoint is None else load_run(store.path, checkpoint).labels_version,
        n=len(ious),
        mean_iou=float(np.mean(ious)),
        **run.result()["rescored"],
    )


@dataclass(kw_only=True)
class _Rows:
    """The rows that a rescoring collects."""

    scores: list[Score] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    ious_before: list[float] = field(default_factory=list)
    gone: int = 0
    unanswered: int = 0
    left_out: int = 0

    def add(self, score: Score, asked: Row, answered: Row, shape: tuple[int, int]) -> None:
        """Add a mask that was scored, with the rows that the run before has of it."""
        question = score.question
        free = {"free_iou": question.free.iou, "free_dice": question.free.dice, "prompt_iou": score.prompt_iou}
        ellipse = None if question.ellipse is None else question.ellipse.iou
        changed = {"cell": question.cell.cell, "cut": question.cut, "free_ellipse_iou": ellipse}
        self.prompts.append(asked | free | changed)
        self.predictions.append(prediction_row(score, asked["prompt_id"], shape))
        self.ious_before.append(answered["iou"])
        self.scores.append(score)


@dataclass(frozen=True, kw_only=True)
class _Rescoring:
    """The masks of a run, the store with the labels that it was scored against, and with those of the other version."""

    info: RunInfo
    old: Store
    now: Store

    def rows(self, progress: Progress) -> _Rows:
        """Score all masks that still have a cell."""
        asked = {row["prompt_id"]: row for row in self.info.rows("prompts")}
        by_frame: dict[str, list[Row]] = {}
        for row in self.info.rows("predictions"):
            by_frame.setdefault(row["frame"], []).append(row)
        cells = [_by_frame(store, by_frame) for store in (self.old, self.now)]
        rects = {view.view: view.rect for plan in self.now.plan_parts() for view in ViewRecord.of(plan)}
        radius, found = median_training_radius(self.now), _Rows()
        for name, rows in progress(by_frame.items(), total=len(by_frame), what="score again"):
            frame = _Frame(
                old=self.old.pixels.label(name),
                now=self.now.pixels.label(name),
                before=cells[0][name],
                cells=cells[1][name],
                tiles=self._tiles(name),
                rects=rects,
                radius=radius,
            )
            frame.score(rows, asked, found)
        return found

    def _tiles(self, frame: str) -> list[Rect]:
        views = self.now.recipe.views
        return tile_rectangles(self.now.frame_records()[frame].shape, views.tile, views.overlap)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Labels and cells of a frame at both versions; its tiles, the rectangles of views, and the training radius."""

    old: LabelArray
    now: LabelArray
    before: dict[str, CellRecord]
    cells: dict[str, CellRecord]
    tiles: Sequence[Rect]
    rects: Mapping[str, Rect]
    radius: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.now.shape[0], self.now.shape[1]

    def score(self, rows: Sequence[Row], asked: Mapping[str, Row], found: _Rows) -> None:
        """Score the rows of the frame into ``found``."""
        heirs, kept, made = self._heirs(), [], []
        for row in rows:
            cell = heirs.get(row["cell"])
            prompt = self._prompt(asked[row["prompt_id"]]) if cell is not None else None
            if cell is None:
                found.gone += 1
            elif prompt is None:
                found.left_out += 1
            else:
                kept.append(row)
                made.append(self._score(row, asked[row["prompt_id"]], prompt, cell))
        for row, score in zip(kept, with_details(made, self.now), strict=True):
            found.add(score, asked[row["prompt_id"]], row, self.shape)
        found.unanswered += len(self.cells.keys() - {cell.cell for cell in heirs.values()})

    def _heirs(self) -> dict[str, CellRecord]:
        """Return the cell of the new version that each cell of the old one is, by its id."""
        pairs = shared_pixels(self.old, self.now)
        smaller = np.minimum(pairs.first_areas[pairs.first], pairs.second_areas[pairs.second])
        pairs = pairs.take(2 * pairs.shared > smaller)
        for side in ("first", "second"):
            pairs = pairs.take(np.lexsort((pairs.second, pairs.first, -pairs.shared)))
            pairs = pairs.take(np.unique(getattr(pairs, side), return_index=True)[1])
        old = {cell.label: cell for cell in self.before.values()}
        now = {cell.label: cell for cell in self.cells.values()}
        found = {}
        for first, second in zip(pairs.first, pairs.second, strict=True):
            labels = int(pairs.first_labels[first]), int(pairs.second_labels[second])
            if labels[0] in old and labels[1] in now:
                found[old[labels[0]].cell] = now[labels[1]]
        return found

    def _prompt(self, asked: Row) -> Prompt | None:
        """Return the prompt of a row; None where it had a mask that is not stored and cannot be drawn again."""
        kind: str = asked["kind"]
        if kind.partition("@")[0].startswith("mask"):
            cell = self.before.get(asked["cell"])
            if asked["origin"] != "truth" or kind in FIRST or cell is None:
                return None
            return make_prompt(kind, cell_context(self.old, cell.label, cell.cell, cell.box), asked["prompt_seed"])
        box = None if asked["x0"] is None else np.array([asked[name] for name in ("x0", "y0", "x1", "y1")])
        points = np.array(asked["points"] or [], np.float64).reshape(-1, 2)
        labels = np.array(asked["point_labels"] or [], np.int64)
        if box is None and not len(points):
            return None
        given = (points, labels) if len(points) else (None, None)
        return Prompt(kind=kind, box=box, points=given[0], point_labels=given[1])

    def _score(self, row: Row, asked: Row, prompt: Prompt, cell: CellRecord) -> Score:
        mask, origin = decode_crop(row["rle"], *self.shape)
        context = cell_context(self.now, cell.label, cell.cell, cell.box)
        free = image_free_score(prompt, context.mask, context.origin, self.radius, self.shape)
        question = Question(
            prompt=prompt,
            origin=asked["origin"],
            seed=asked["prompt_seed"],
            cell=cell,
            context=context,
            tile=Tile(view=row["view"], rect=self.rects.get(row["view"], self.tiles[0]), row=-1),
            cut=not any(holds_whole(cell.box, rect) for rect in self.tiles),
            free=free,
            ellipse=ellipse_score(prompt, context.mask, context.origin, self.radius, self.shape),
        )
        empty = np.zeros((0, 0), np.float32)
        answer = Prediction(mask=mask, origin=origin, predicted_iou=row["predicted_iou"], logits=empty, corner=(0, 0))
        shared = overlap(mask, context.mask, origin, context.origin)
        own = free.iou if prompt.mask is not None else None
        return Score(question=question, prediction=answer, iou=shared.iou, dice=shared.dice, prompt_iou=own)


def _by_frame(store: Store, frames: Mapping[str, object]) -> dict[str, dict[str, CellRecord]]:
    found: dict[str, dict[str, CellRecord]] = {frame: {} for frame in frames}
    for cell in CellRecord.of(store.cells_table()):
        if cell.frame in found:
            found[cell.frame][cell.cell] = cell
    return found
