"""SEG, DET and count errors of a run, from its stored masks.

Of an evaluation these start from the truth, since every prompt was made for a true cell: they are called
``SEG (oracle prompts)`` and ``DET (oracle prompts)`` (rule "names"). Only runs that found their cells themselves,
which have ``detections.parquet``, get the plain names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError
from hela_store.images.assemble import Answer, assemble
from hela_store.images.labels import apply_field_of_interest
from hela_store.metrics.ctc import FrameMatch, det, match_frame, seg
from hela_store.recipe.recipe import TRUTH_NAMES
from hela_store.runs.folder import load_run
from hela_store.runs.info import RunInfo
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

from .covered import covered_frames

ORACLE = " (oracle prompts)"


@dataclass(frozen=True, kw_only=True)
class RunLabels:
    """The label images a run's stored masks make; :meth:`__iter__` yields ``(frame, int32 (row, col))``.

    Attributes
    ----------
    store : Store
    info : RunInfo
    prompt, prompt_seed : which masks; None of a run that found its cells itself
    answers : masks by frame, of every frame the run looked at
    """

    store: Store
    info: RunInfo
    prompt: str | None
    prompt_seed: int | None
    answers: dict[str, list[Answer]]

    @property
    def suffix(self) -> str:
        """The ending of the names of scores."""
        return ORACLE if self.prompt is not None else ""

    def __iter__(self) -> Iterator[tuple[FrameRecord, npt.NDArray[np.int32]]]:
        """Yield the frames in order, each with its label image, objects numbered as in ``answers``."""
        for frame in self.store.frame_records().values():
            if frame.frame in self.answers:
                yield frame, assemble(self.answers[frame.frame], frame.shape)

    def __len__(self) -> int:
        return len(self.answers)


def run_labels(store: Store, run: str, prompt: str | None = None, prompt_seed: int | None = None) -> RunLabels:
    """Read the stored masks of a run.

    Parameters
    ----------
    run : id, its beginning, or ``"latest"``
    prompt : which prompt kind of an evaluation; may be left out where it has one
    prompt_seed : the smallest there is by default

    Raises
    ------
    RunError
        The run has no masks, several prompt kinds, or not the one asked for.
    """
    return labels_of(store, load_run(store.path, run, latest_of="evaluate"), prompt, prompt_seed)


def labels_of(store: Store, info: RunInfo, prompt: str | None = None, prompt_seed: int | None = None) -> RunLabels:
    """Read the stored masks of a run that was loaded before; else as :func:`run_labels`.

    The store that comes with them reads the labels that the run was scored against.
    """
    store = store.at_labels(info.labels_version)
    if info.has("detections.parquet"):
        return RunLabels(store=store, info=info, prompt=None, prompt_seed=None, answers=_detected(store, info))
    if not info.has("predictions.parquet"):
        raise RunError(f"run {info.id} is of kind {info.kind} and has no predictions; choose an evaluation or baseline")
    asked = info.rows("prompts", ["prompt_id", "kind", "prompt_seed"])
    kinds = list(dict.fromkeys(row["kind"] for row in asked))
    if prompt is None and len(kinds) > 1:
        raise RunError(f"run {info.id} has the prompts {', '.join(kinds)}; choose one, such as --prompt {kinds[0]}")
    prompt = prompt or kinds[0]
    seeds = sorted({row["prompt_seed"] for row in asked if row["kind"] == prompt})
    if not seeds or (prompt_seed is not None and prompt_seed not in seeds):
        raise RunError(f"run {info.id} has no {prompt} prompts of seed {prompt_seed or 0}; it has {', '.join(kinds)}")
    prompt_seed = seeds[0] if prompt_seed is None else prompt_seed
    chosen = {row["prompt_id"] for row in asked if (row["kind"], row["prompt_seed"]) == (prompt, prompt_seed)}
    columns = ["prompt_id", "cell", "frame", "predicted_iou", "rle"]
    answers: dict[str, list[Answer]] = {}
    for row in info.rows("predictions", columns):
        if row["prompt_id"] in chosen:
            answer = Answer(id=row["cell"], score=row["predicted_iou"], rle=row["rle"])
            answers.setdefault(row["frame"], []).append(answer)
    return RunLabels(store=store, info=info, prompt=prompt, prompt_seed=prompt_seed, answers=answers)


def _detected(store: Store, info: RunInfo) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {frame: [] for frame in covered_frames(store, info)}
    least = float(info.config.get("threshold") or 0.0)
    columns = ["detection", "frame", "score", "rle"]
    for row in info.rows("detections", columns):
        if row["rle"] is not None and (row["score"] is None or row["score"] >= least):
            answer = Answer(id=row["detection"], score=row["score"], rle=row["rle"])
            answers.setdefault(row["frame"], []).append(answer)
    return answers


@dataclass(frozen=True, kw_only=True)
class SequenceScore:
    """SEG and DET of one sequence, and the count errors of its frames.

    Attributes
    ----------
    sequence : str
    frames, cells : how many were scored
    seg : float
    det : float or None
        None where the truth is partial: an object without a label may be a cell that nobody drew.
    count_errors : dict of frame to objects found less cells there are; empty where the truth is partial
    """

    sequence: str
    frames: int
    cells: int
    seg: float
    det: float | None
    count_errors: dict[str, int]

    @property
    def mean_count_error(self) -> float | None:
        """Mean of the absolute count errors; None where there are none."""
        return float(np.mean(np.abs(list(self.count_errors.values())))) if self.count_errors else None


@dataclass(frozen=True, kw_only=True)
class SequenceScores:
    """Scores of a run by sequence; ``suffix`` belongs behind the names SEG and DET, ``truth`` says what against."""

    run: str
    prompt: str | None
    prompt_seed: int | None
    suffix: str
    sequences: list[SequenceScore]
    truth: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, SEG and DET under their right names."""
        return {
            "run": self.run,
            "prompt": self.prompt,
            "prompt_seed": self.prompt_seed,
            "sequences": [_named(score, self.suffix) for score in self.sequences],
        }


def _named(score: SequenceScore, suffix: str) -> dict[str, Any]:
    row = asdict(score)
    scores = {f"SEG{suffix}": row.pop("seg"), f"DET{suffix}": row.pop("det")}
    errors = row.pop("count_errors")
    return row | scores | {"mean_count_error": score.mean_count_error, "count_errors": errors}


def sequence_scores(labels: RunLabels, progress: Progress = silent) -> SequenceScores:
    """Score a run's label images against the labels of its frames; frames without labels are left out.

    Result objects that lie wholly in the outer band of the field of interest are not counted (rule "valid pixels").

    Raises
    ------
    RunError
        None of the run's frames has labels.
    """
    store, band = labels.store, labels.store.recipe.dataset.field_of_interest
    found: dict[str, dict[str, tuple[FrameMatch, bool]]] = {}
    for frame, label in progress(labels, total=len(labels), what="SEG and DET"):
        if frame.has_label:
            truth = store.pixels.label(frame.frame)
            match = match_frame(truth, apply_field_of_interest(label, band))
            found.setdefault(frame.sequence, {})[frame.frame] = (match, frame.partial)
    if not found:
        raise RunError(f"run {labels.info.id} has no frame with labels; there is nothing to score against")
    return SequenceScores(
        run=labels.info.id,
        prompt=labels.prompt,
        prompt_seed=labels.prompt_seed,
        suffix=labels.suffix,
        truth=TRUTH_NAMES.get(store.recipe.dataset.labels, ""),
        sequences=[_sequence(name, frames) for name, frames in found.items()],
    )


def _sequence(name: str, frames: dict[str, tuple[FrameMatch, bool]]) -> SequenceScore:
    matches = [match for match, _ in frames.values()]
    partial = any(part for _, part in frames.values())
    return SequenceScore(
        sequence=name,
        frames=len(matches),
        cells=sum(match.truth for match in matches),
        seg=seg(matches),
        det=None if partial else det(matches),
        count_errors={} if partial else {frame: match.count_error for frame, (match, _) in frames.items()},
    )
