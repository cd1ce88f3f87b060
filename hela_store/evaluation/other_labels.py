"""Runs against labels they were not made with: partial gold beside the tracker reference, on the same nuclei.

A nucleus of the other truth and a cell of the store are the same where the cell holds more than half of the nucleus
(:func:`hela_store.metrics.matching.majority`); of several nuclei in one cell the one with the largest overlap. The
masks are those a run stored for the cell; no decoder runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.progress import Progress, silent
from hela_store.datasets import open_dataset
from hela_store.datasets.frame import frame_digest
from hela_store.datasets.pixels import read_image
from hela_store.errors import DatasetError, RunError
from hela_store.images.labels import apply_field_of_interest, shared_pixels
from hela_store.images.rle import bbox, decode_crop
from hela_store.metrics.boundaries import Distances
from hela_store.metrics.ctc import FrameMatch, match_frame, seg
from hela_store.metrics.intervals import Interval, crossed_interval
from hela_store.metrics.matching import majority
from hela_store.metrics.overlap import overlap
from hela_store.runs.folder import RunInfo, load_run
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .sequences import ORACLE, labels_of
from .tolerance import Tolerance, tolerance, truths_apart
from .tracks import cell_tracks

Labels = Literal["GT", "ST", "GT+ST"]
LABEL_FREE = ("none", "detected")
"""Prompts that were not made from the truth."""


@dataclass(frozen=True, kw_only=True)
class TruthScore:
    """One run under one prompt kind, against the other truth and, on the same nuclei, against the store's labels.

    Attributes
    ----------
    run, prompt : str
    nuclei : of the other truth that are a cell of the store which the run answered
    n : masks scored, one a nucleus and prompt seed
    iou, dice : with the other truth
    reference_iou, reference_dice : with the store's labels
    between_iou : of the store's labels with the other truth, on the same nuclei: what imitating them would score
    unmatched : nuclei of the other truth in the frames of the run that no cell of the store is
    seg : SEG of the run's label images against all nuclei of the other truth, first prompt seed
    between_seg : SEG of the store's labels against them
    interval, between_interval : Interval
        Of ``iou`` and ``between_iou``, over tracks and frames; one run has one training seed.
    over_labels : Interval
        Of the paired difference: IoU of a mask less that of the store's label of the same nucleus.
    over_first : Interval or None
        Of the paired difference to the first run with this prompt: IoU with the other truth on the same nuclei and
        prompts; None of that run itself, and where no prompt is the same.
    units : how tracks were found
    tolerance : how far the boundaries of the two truths are apart on the same nuclei
    """

    run: str
    prompt: str
    nuclei: int
    n: int
    iou: float
    dice: float
    reference_iou: float
    reference_dice: float
    between_iou: float
    unmatched: int
    seg: float
    between_seg: float
    interval: Interval
    between_interval: Interval
    over_labels: Interval
    units: str
    over_first: Interval | None = None
    tolerance: Tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain values, SEG under its right name (rule "names")."""
        row = asdict(self)
        return row | {"SEG" if self.prompt in LABEL_FREE else f"SEG{ORACLE}": row.pop("seg")}


Ious = dict[tuple[str, str, int], float]
"""IoU with the other truth, by frame, cell and prompt seed."""


@dataclass(frozen=True, kw_only=True)
class _Nucleus:
    """A nucleus of the other truth: its mask in the crop at ``origin`` (x, y), and how it lies to the cell it is."""

    mask: BoolArray
    origin: tuple[int, int]
    between: float
    apart: tuple[Distances, Distances]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The other truth of a frame, which cells its nuclei are, and what the store's labels add to SEG against it."""

    truth: LabelArray
    nuclei: dict[str, _Nucleus]
    unmatched: int
    between: FrameMatch


def score(store: Store, runs: Sequence[str], labels: Labels = "GT", *, progress: Progress = silent) -> list[TruthScore]:
    """Score runs against other labels of the same frames.

    Parameters
    ----------
    runs : ids, their beginnings, or ``"latest"`` for the latest evaluation or baseline
    labels : which labels of the data set: ``"GT"``, ``"ST"`` or ``"GT+ST"``

    Returns
    -------
    list of TruthScore
        By run and prompt kind.

    Raises
    ------
    DatasetError
        The data set is gone, has no such labels, labels of another size than the frames, or other frames.
    RunError
        A run has no predictions, or none for a nucleus of these labels.
    """
    found: list[TruthScore] = []
    firsts: dict[str, Ious] = {}
    for one, ious in truth_answers(store, runs, labels, progress=progress):
        first = firsts.setdefault(one.prompt, ious)
        found.append(one if first is ious else replace(one, over_first=truth_change(store, first, [ious])))
    return found


def truth_answers(
    store: Store, runs: Sequence[str], labels: Labels, *, progress: Progress = silent
) -> list[tuple[TruthScore, Ious]]:
    """Score runs as :func:`score` does, unpaired; return the IoU of every answer as well. Raises as :func:`score`."""
    infos = [load_run(store.path, run, latest_of=("evaluate", "baseline")) for run in runs]
    for info in infos:
        if not info.has("predictions.parquet"):
            raise RunError(f"run {info.id} is of kind {info.kind} and has no predictions; choose an evaluation")
    versions = {info.labels_version for info in infos}
    if len(versions) > 1:
        told = ", ".join(f"{info.id} version {info.labels_version}" for info in infos)
        raise RunError(f"these runs were scored against different versions of the store's labels ({told}); give others")
    store = store.at_labels(*versions)
    if store.recipe.dataset.reader == "folder":
        raise DatasetError(
            f"{store.path} reads a folder or stacks; expected a Cell Tracking Challenge data set, which alone has "
            f"{labels} labels. For labels of your own: `hela-store labels import DIR`, then `hela-store score RUN "
            "--labels-version latest`"
        )
    shown = progress(_frames(store, labels), total=store.frames_table().num_rows, what=f"labels {labels}")
    frames = {name: frame for name, frame in shown if frame is not None}
    if not frames:
        raise DatasetError(f"no frame of {store.path} has {labels} labels; expected some of the data set's")
    found = []
    for info in infos:
        rows = _answers(info)
        for prompt in dict.fromkeys(row["kind"] for row in rows):
            found.append(_score(store, info, prompt, [row for row in rows if row["kind"] == prompt], frames))
    return found


def truth_change(store: Store, first: Ious, others: Sequence[Ious]) -> Interval | None:
    """Return how far runs are from the first one, on the nuclei and prompts that both answered, with its interval.

    Parameters
    ----------
    first : of the run to compare with
    others : one for each training seed

    Returns
    -------
    Interval or None
        Over tracks, frames and training seeds; None where no nucleus and prompt is the same.
    """
    rows = [(seed, key) for seed, ious in enumerate(others) for key in sorted(first.keys() & ious.keys())]
    if not rows:
        return None
    tracks = cell_tracks(store, sorted({frame for _, (frame, _, _) in rows}))
    change = np.array([others[seed][key] - first[key] for seed, key in rows], np.float64)
    seeds = np.array([seed for seed, _ in rows], np.int64)
    return crossed_interval(change, tracks.units([cell for _, (_, cell, _) in rows], seeds)).within(-1, 1)


def _frames(store: Store, labels: Labels) -> Iterator[tuple[str, _Frame | None]]:
    reader = open_dataset(replace(store.recipe.dataset, labels=labels), store.path)
    cells: dict[str, dict[int, str]] = {}
    for cell in CellRecord.of(store.cells_table()):
        cells.setdefault(cell.frame, {})[cell.label] = cell.cell
    frames = store.frame_records()
    for entry in reader.entries:
        name = entry.id
        truth = reader.label(entry) if name in frames else None
        if truth is None or not truth.any():
            yield name, None
        else:
            if frame_digest(read_image(entry.image)) != frames[name].sha256:
                raise DatasetError(
                    f"{entry.image.path} is not the image that was ingested as {name}, so its {labels} labels may be "
                    "of another one; restore the file, or set dataset.path in store.toml"
                )
            stored = store.pixels.label(name)
            yield name, _frame(truth, stored, cells.get(name, {}))


def _frame(truth: LabelArray, stored: LabelArray, cells: dict[int, str]) -> _Frame:
    between = match_frame(truth, stored)
    pairs = majority(shared_pixels(truth, stored))
    # of several nuclei in one cell the largest overlap comes first, of equals the smaller label
    pairs = pairs.take(np.lexsort((pairs.first, -pairs.shared, pairs.second)))
    pairs = pairs.take(np.unique(pairs.second, return_index=True)[1])
    nuclei = {}
    for first, second, iou in zip(pairs.first, pairs.second, pairs.ious, strict=True):
        nucleus = truth == pairs.first_labels[first]
        x0, y0, x1, y1 = bbox(nucleus)
        label = int(pairs.second_labels[second])
        apart = truths_apart(truth, int(pairs.first_labels[first]), stored, label)
        mask = nucleus[y0:y1, x0:x1].copy()
        nuclei[cells[label]] = _Nucleus(mask=mask, origin=(x0, y0), between=float(iou), apart=apart)
    unmatched = len(pairs.first_labels) - len(nuclei)
    return _Frame(truth=truth, nuclei=nuclei, unmatched=unmatched, between=between)


def _answers(info: RunInfo) -> list[dict[str, Any]]:
    asked = info.rows("prompts", ["prompt_id", "kind", "prompt_seed"])
    kinds = {row["prompt_id"]: {"kind": row["kind"], "prompt_seed": row["prompt_seed"]} for row in asked}
    columns = ["prompt_id", "cell", "frame", "iou", "dice", "rle"]
    return [row | kinds[row["prompt_id"]] for row in info.rows("predictions", columns)]


def _score(
    store: Store, info: RunInfo, prompt: str, rows: list[dict[str, Any]], frames: dict[str, _Frame]
) -> tuple[TruthScore, Ious]:
    looked = {row["frame"] for row in rows} & frames.keys()
    scored, kept = [], []
    for row in rows:
        nucleus = frames[row["frame"]].nuclei.get(row["cell"]) if row["frame"] in looked else None
        if nucleus is not None:
            mask, origin = decode_crop(row["rle"], *frames[row["frame"]].truth.shape)
            scored.append((overlap(mask, nucleus.mask, origin, nucleus.origin), nucleus.between))
            kept.append(row)
    if not kept:
        raise RunError(f"run {info.id} answered none of the nuclei of these labels; score a split that has some")
    same = dict.fromkeys((row["frame"], row["cell"]) for row in kept)
    ious = np.array([[shared.iou, between] for shared, between in scored], np.float64).T
    tracks = cell_tracks(store, list({row["frame"] for row in kept}))
    units = tracks.units([row["cell"] for row in kept])
    labels = labels_of(store, info, prompt)
    labels = replace(labels, answers={name: part for name, part in labels.answers.items() if name in looked})
    band = store.recipe.dataset.field_of_interest
    matches = [
        (match_frame(frames[frame.frame].truth, apply_field_of_interest(label, band)), frames[frame.frame].between)
        for frame, label in labels
    ]
    asked = ((row["frame"], row["cell"], row["prompt_seed"]) for row in kept)
    answered = dict(zip(asked, ious[0].tolist(), strict=True))
    scored_run = TruthScore(
        run=info.id,
        prompt=prompt,
        nuclei=len({row["cell"] for row in kept}),
        n=len(kept),
        iou=float(np.mean([shared.iou for shared, _ in scored])),
        dice=float(np.mean([shared.dice for shared, _ in scored])),
        reference_iou=float(np.mean([row["iou"] for row in kept])),
        reference_dice=float(np.mean([row["dice"] for row in kept])),
        between_iou=float(np.mean([between for _, between in scored])),
        unmatched=sum(frames[name].unmatched for name in looked),
        seg=seg(match for match, _ in matches),
        between_seg=seg(between for _, between in matches),
        interval=crossed_interval(ious[0], units).within(0, 1),
        between_interval=crossed_interval(ious[1], units).within(0, 1),
        over_labels=crossed_interval(ious[0] - ious[1], units).within(-1, 1),
        units=str(tracks),
        tolerance=tolerance([frames[frame].nuclei[cell].apart for frame, cell in same]),
    )
    return scored_run, answered
