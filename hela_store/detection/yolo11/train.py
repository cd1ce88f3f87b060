"""The ``yolo11`` backend: YOLO11s of ultralytics (AGPL-3.0), in a process of its own, on the same views and split.

Nothing here imports ultralytics. Images and label files go to a folder on disk, a box table and weights come back.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
from safetensors import SafetensorError, safe_open

from hela_store.base.files import sha256_file, write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.base.tensors import in_order
from hela_store.detection.box_scores import FramePairs
from hela_store.detection.config import YoloConfig
from hela_store.detection.detections import Detections, from_boxes, join, merge_tiles
from hela_store.detection.frames import box_pairs, scorable_frames, truths
from hela_store.detection.propose import LEAST_SCORE, MOST
from hela_store.detection.train import KIND, DetectorResult, chosen, finished_detector
from hela_store.errors import ExtraError, RunError
from hela_store.evaluation.leaks import check_twins
from hela_store.runs.folder import RunFolder, RunInfo
from hela_store.sam.devices import pick_device
from hela_store.store.store import Store
from hela_store.training.data import training_views
from hela_store.training.settings import training_config
from hela_store.training.trainer import STATE, open_run

from .images import Tiles, write_dataset, write_tiles

BACKEND = "yolo11"
LICENCE = "ultralytics is licensed under AGPL-3.0; it runs in a process of its own"
PROCESS = Path(__file__).with_name("process.py")
BEST, LOG = "weights.safetensors", "yolo11.log"
DATA = "data"
# it neither fetches nor installs anything, and keeps its settings out of the user's home
SETTINGS = ("YOLO_OFFLINE=true", "YOLO_AUTOINSTALL=false")


def train_yolo(store: Store, config: YoloConfig, *, fresh: bool = False, progress: Progress = silent) -> DetectorResult:
    """Train a YOLO11s and publish it as a run of kind ``"detector"``; an interrupted one goes on at its last epoch.

    A finished run of this configuration is returned as it is, unless ``fresh``.

    Raises
    ------
    ExtraError
        Ultralytics is not installed.
    SplitError, StoreError
        The training or validation block is empty, or not embedded; a test frame has the pixels of one that trains.
    RunError
        Its process failed; its log is kept in the partial run.
    """
    _require()
    if config.weights is not None and not config.weights.is_file():
        raise RunError(f"no weights at {config.weights}; expected safetensors with the names of YOLO11s")
    check_twins(store)
    validation = scorable_frames(store, "val")
    about = training_config(store, _settings(store, config))
    if not fresh and (done := finished_detector(store, about)):
        return done
    folder = open_run(store.path, KIND, about, label=BACKEND, resume=not fresh)
    start = time.monotonic()
    with folder.tidied(resumable=True):
        _train(store, config, folder, progress)
        pairs = _validated(store, folder, config, validation, progress)
        seconds = time.monotonic() - start
        result = chosen(folder.id, pairs, best_step=_best_epoch(folder), seconds=seconds)
        folder.log(step=config.steps, result=result.to_json())
        (folder.path / STATE).unlink(missing_ok=True)
        write_atomic(folder.path / BEST, in_order((folder.path / BEST).read_bytes()))
        shutil.rmtree(folder.path / DATA, ignore_errors=True)
        folder.publish()
    return result


def yolo_detections(
    store: Store, info: RunInfo, frames: Sequence[str], *, device: str = "auto", progress: Progress = silent
) -> tuple[dict[str, Detections], float, int]:
    """Find the cells of stored frames: detections by frame, seconds of the detector, and views looked at.

    Raises
    ------
    ExtraError, RunError
        Ultralytics is not installed; its process failed.
    """
    _require()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        return _detect(store, info.weights, frames, (info.config["image_size"], device, work), progress)


def _require() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        raise ExtraError("ultralytics is not installed; pip install 'hela-store[yolo]' (AGPL-3.0)", name="ultralytics")


def _settings(store: Store, config: YoloConfig) -> dict[str, Any]:
    # what they are, not where they lie, decides whether an interrupted run goes on
    weights = None if config.weights is None else sha256_file(config.weights)
    return asdict(config) | {"backend": BACKEND, "encoder": store.key, "weights": weights}


def _train(store: Store, config: YoloConfig, folder: RunFolder, progress: Progress) -> None:
    data = folder.path / DATA
    shutil.rmtree(data, ignore_errors=True)
    views = {block: training_views(store, block) for block in ("train", "val")}
    epochs = -(-config.steps // -(-len(views["train"]) // config.batch))
    if (folder.path / STATE).exists() and _epochs_done(folder) >= epochs:
        return
    yaml = write_dataset(store, views, data, progress)
    job = {"task": "train", "data": str(yaml), "epochs": epochs, "batch": config.batch, "imgsz": config.image_size}
    job |= {"seed": config.seed, "device": _device(config.device), "project": str(data / "project")}
    job |= {"weights": str(config.weights or ""), "best": str(folder.path / BEST), "state": str(folder.path / STATE)}
    for row in progress(_run(job, data, folder.path / LOG), total=epochs, what="train yolo11"):
        folder.log(**row)


def _epochs_done(folder: RunFolder) -> int:
    # by the state, which is written before the log's line
    path = folder.path / STATE
    try:
        with safe_open(path, framework="numpy") as file:
            return int(json.loads(file.metadata()["about"])["epoch"]) + 1
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}); delete {folder.path} and start the run again") from None


def _validated(
    store: Store, folder: RunFolder, config: YoloConfig, validation: Sequence[str], progress: Progress
) -> list[FramePairs]:
    """Return what the weights of the best epoch find in the validation frames, beside the truth."""
    where = (config.image_size, config.device, folder.path / DATA / "boxes")
    found, _, _ = _detect(store, folder.path / BEST, validation, where, progress)
    return [box_pairs(found[truth.frame.frame], truth) for truth in truths(store, validation)]


def _best_epoch(folder: RunFolder) -> int:
    epochs = [row for row in folder.info.log() if "epoch" in row]
    # of equal ones the last was kept
    best: dict[str, Any] = max(epochs, key=lambda row: (row["fitness"], row["epoch"]), default={})
    return int(best.get("epoch", 0))


def _detect(
    store: Store, weights: Path, frames: Sequence[str], where: tuple[int, str, Path], progress: Progress
) -> tuple[dict[str, Detections], float, int]:
    image_size, device, work = where
    shutil.rmtree(work, ignore_errors=True)
    tiles: dict[str, Tiles] = {}
    for truth in truths(store, frames):
        name = truth.frame.frame
        tiles[name] = write_tiles(store, truth.frame, work / "images")
    views = sum(len(part.names) for part in tiles.values())
    job = {"task": "predict", "images": str(work / "images"), "boxes": str(work / "boxes.csv"), "max_det": MOST}
    job |= {"weights": str(weights), "imgsz": image_size, "conf": LEAST_SCORE, "device": _device(device)}
    rows = progress(_run(job, work, work / LOG), total=views, what="detect with yolo11")
    seconds = sum(row["seconds"] for row in rows)
    boxes: dict[str, list[list[float]]] = {}
    for row in pa_csv.read_csv(work / "boxes.csv").to_pylist():
        boxes.setdefault(str(row["image"]), []).append([row[name] for name in ("x0", "y0", "x1", "y1", "score")])
    return {frame: _in_frame(part, boxes) for frame, part in tiles.items()}, seconds, views


def _in_frame(tiles: Tiles, boxes: dict[str, list[list[float]]]) -> Detections:
    parts = []
    limit = np.tile([tiles.shape[1], tiles.shape[0]], 2).astype(float)
    for number, (name, rect) in enumerate(zip(tiles.names, tiles.rects, strict=True)):
        rows = np.asarray(boxes.get(name, []), float).reshape(-1, 5)
        corners = (rows[:, :4] + np.tile(rect[:2], 2)).clip(0, limit)
        good = (corners[:, 2:] > corners[:, :2]).all(1)
        plain = from_boxes(corners[good], rows[good, 4])
        parts.append(replace(plain, tiles=np.full(len(plain), number, np.int64)))
    return merge_tiles(join(parts), tiles.rects, tiles.shape)


def _run(job: dict[str, Any], work: Path, log: Path) -> Iterator[dict[str, Any]]:
    """Start the process and yield what it tells; it ends with this one, whatever happens."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "job.json"
    file.write_text(json.dumps(job))
    command = ["env", *SETTINGS, f"YOLO_CONFIG_DIR={work}", sys.executable, str(PROCESS), str(file)]
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if process.wait() != 0:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RunError(f"the yolo11 process ended with {process.returncode} ({(said or ['nothing said'])[-1]}); "
                           f"all it said is in {log}")  # fmt: skip
    finally:
        process.kill()
        process.communicate()


def _device(name: str) -> str:
    kind = pick_device(name)
    return f"{kind.index or 0}" if kind.type == "cuda" else kind.type
