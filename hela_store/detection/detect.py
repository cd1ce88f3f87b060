"""Runs of kind ``"detect"``: what a detector, or a table of boxes, finds in the frames of a block."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hela_store.base.progress import Progress, silent
from hela_store.detection.yolo11.train import BACKEND, yolo_detections
from hela_store.errors import RunError
from hela_store.evaluation.covered import keep_frames
from hela_store.evaluation.leaks import check_untouched
from hela_store.evaluation.reads import data_digest
from hela_store.evaluation.reuse import claim_scoring
from hela_store.evaluation.rows import DETECTION_SCHEMA
from hela_store.runs.folder import RunFolder, RunInfo, load_run, new_run
from hela_store.sam.devices import pick_device
from hela_store.store.store import Store

from .config import IMPORTED
from .detections import Detections
from .frames import FrameTruth, split_frames, tile_embeddings, truths
from .head import GridHead, load_head
from .import_boxes import read_boxes
from .propose import detect_frame
from .rows import detection_rows
from .train import KIND


@dataclass(frozen=True, kw_only=True)
class DetectResult:
    """A detection run.

    Attributes
    ----------
    run : id
    detector : run whose weights were used, or the name of the file that was imported
    split : block
    frames, detections : how many; detections that count, at ``threshold``
    threshold : score from which a detection counts
    seconds_per_frame, seconds_per_view : of the detector alone, without reading; None for imported boxes
    reused : whether the run was finished before it was asked for
    """

    run: str
    detector: str
    split: str
    frames: int
    detections: int
    threshold: float
    seconds_per_frame: float | None
    seconds_per_view: float | None
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store detect run --json`` prints."""
        return asdict(self)


def load_grid_head(store: Store, info: RunInfo, device: str = "auto") -> GridHead:
    """Return the head of a trained ``grid`` detector.

    Raises
    ------
    RunError
        The run holds another detector, or was trained on another encoder's embeddings.
    """
    if info.config.get("backend") != "grid":
        raise RunError(
            f"run {info.id} is a {info.config.get('backend')} detector, expected a grid one; of others give the "
            "detections: `hela-store detect run`, then `--detector` with that run"
        )
    return load_head(info.weights, store.key, pick_device(device))


def threshold_of(info: RunInfo) -> float:
    """Return the score from which detections of a detector, or of a detection run, count."""
    if "threshold" in info.config:
        return float(info.config["threshold"])
    result = info.result()
    if not result:
        raise RunError(f"run {info.id} is damaged: its log has no result; train another detector")
    return float(result["threshold"])


def detect(
    store: Store,
    detector: str = "latest",
    split: str = "test",
    *,
    threshold: float | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: Progress = silent,
) -> DetectResult:
    """Find the cells of every frame of a block and keep them as a run.

    What this very version found before, on the same frames, is returned as it is, and test counts as scored once.

    Parameters
    ----------
    store : with all views of the block embedded; labels are compared with, where there are any
    detector : a run of kind ``"detector"``
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    threshold : score from which a detection counts; None for the detector's own, chosen on validation
    fresh : make another run in any case

    Raises
    ------
    RunError, SplitError, StoreError
        No such detector, one of another encoder, or one that trained on the test frames; no such frames; not embedded
        yet.
    """
    info = load_run(store.path, detector, KIND)
    backend = info.config["backend"]
    threshold = threshold_of(info) if threshold is None else threshold
    frames = split_frames(store, split)
    check_untouched(store, info, frames, split)
    about = {"detector": info.id, "backend": backend, "checkpoint": info.id, "split": split, "threshold": threshold}
    about |= {"encoder": store.key, "data": data_digest(store, ("train", split))}
    with claim_scoring(store, "detect", about, fresh=fresh, progress=progress) as done:
        if done is not None:
            return DetectResult(**done.result() | {"reused": True})
        found = (_yolo11 if backend == BACKEND else _grid)(store, info, frames, device, progress)
        folder = new_run(store.path, "detect", about, parent=info.id, label=split)
        return _keep(store, folder, found)


@dataclass(frozen=True, kw_only=True)
class _FoundFrame:
    """A frame, what was found in it, and the seconds that the detector took; None where it ran elsewhere."""

    truth: FrameTruth
    detections: Detections
    seconds: float | None = None


def _grid(store: Store, info: RunInfo, frames: Sequence[str], device: str, progress: Progress) -> Iterator[_FoundFrame]:
    return _grid_frames(store, load_grid_head(store, info, device), frames, progress)


def _grid_frames(store: Store, head: GridHead, frames: Sequence[str], progress: Progress) -> Iterator[_FoundFrame]:
    for truth in progress(truths(store, frames), total=len(frames), what="detect"):
        tiles, embeddings = [tile.rect for tile in truth.frame.tiles], list(tile_embeddings(store, truth.frame))
        start = time.perf_counter()
        found = detect_frame(head, embeddings, tiles, truth.frame.shape)
        yield _FoundFrame(truth=truth, detections=found, seconds=time.perf_counter() - start)


def _yolo11(
    store: Store, info: RunInfo, frames: Sequence[str], device: str, progress: Progress
) -> Iterator[_FoundFrame]:
    found, seconds, _ = yolo_detections(store, info, frames, device=device, progress=progress)
    share = seconds / max(len(frames), 1)
    return (
        _FoundFrame(truth=truth, detections=found[truth.frame.frame], seconds=share) for truth in truths(store, frames)
    )


def import_boxes(
    store: Store, path: Path, *, threshold: float = IMPORTED, name: str = "import", progress: Progress = silent
) -> DetectResult:
    """Keep the boxes of another detector as a run; frames are those the boxes are for, a frame without any has none.

    Raises
    ------
    PromptError
        As :func:`hela_store.detection.import_boxes.read_boxes`; nothing is kept.
    """
    found = read_boxes(path, {name: frame.shape for name, frame in store.frame_records().items()})
    about = {"detector": path.name, "backend": name, "checkpoint": None, "split": "all", "threshold": threshold}
    folder = new_run(store.path, "detect", about | {"encoder": store.key}, label=name)
    shown = progress(truths(store, list(found)), total=len(found), what="import")
    return _keep(store, folder, (_FoundFrame(truth=truth, detections=found[truth.frame.frame]) for truth in shown))


def _keep(store: Store, folder: RunFolder, found: Iterable[_FoundFrame]) -> DetectResult:
    """Write the rows of all frames and publish the run, whose configuration says what found them."""
    rows: list[Mapping[str, Any]] = []
    looked: list[str] = []
    views = 0
    seconds: list[float] = []
    config = folder.info.config
    with folder.tidied():
        for one in found:
            rows += detection_rows(one.detections, one.truth, config["threshold"])
            looked.append(one.truth.frame.frame)
            views += len(one.truth.frame.tiles)
            seconds += [] if one.seconds is None else [one.seconds]
        folder.write_table("detections", pa.Table.from_pylist(rows, DETECTION_SCHEMA))
        keep_frames(folder, looked)
        result = DetectResult(
            run=folder.id,
            detector=config["detector"],
            split=config["split"],
            frames=len(looked),
            detections=sum(row["score"] >= config["threshold"] for row in rows),
            threshold=config["threshold"],
            seconds_per_frame=sum(seconds) / len(looked) if seconds else None,
            seconds_per_view=sum(seconds) / views if seconds else None,
        )
        folder.log(result=result.to_json())
        folder.publish()
    return result
