"""Train the ``grid`` head on stored embeddings; the image encoder is never loaded.

The validation block decides which weights are kept, when to stop, and at which score a detection counts. A training can
be interrupted: its state is saved, and every step is a pure function of (seed, step) and the weights so far.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from hela_store.base.progress import Progress, silent
from hela_store.catalog import index as catalog
from hela_store.errors import RecipeError, RunError
from hela_store.evaluation.leaks import block_ranges, check_twins
from hela_store.runs.folder import RunFolder, new_run, take_up
from hela_store.sam.encoder import pick_device
from hela_store.store.store import Store
from hela_store.training.data import training_variants
from hela_store.training.trainer import SAVE_SECONDS, STATE, NetworkTraining, same_training

from .box_scores import FramePairs, best_confidence, count
from .data import Batch, DetectionViews
from .frames import box_pairs, scorable_frames, tile_embeddings, truths
from .head import GridHead, save_head
from .losses import head_loss
from .propose import detect_frame

_Training = NetworkTraining[GridHead]

KIND = "detector"
PATIENCE = 4
"""Validations without a better one after which training ends."""
WARMUP = 30
MARGIN = 1e-4


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is trained.

    Attributes
    ----------
    backend : ``"grid"``
    steps : optimiser steps at most, ``batch`` views each
    batch : views a step
    lr : of AdamW at its peak; then a cosine to a tenth
    weight_decay : of AdamW
    seed : of weights and order
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    evaluate_every : steps between validations; 0 for an epoch, but at least four times a run
    workers : loader processes that prepare batches ahead
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    backend: str = "grid"
    steps: int = 800
    batch: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0
    variants: int | None = None
    evaluate_every: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.backend != "grid":
            raise RecipeError(f"backend is {self.backend!r}, expected grid; `detect import` takes boxes of others")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}, expected a positive number such as 2e-3")
        for name, least in (("steps", 1), ("batch", 1), ("evaluate_every", 0), ("workers", 0), ("variants", 0)):
            if (getattr(self, name) or 0) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """A trained detector on the validation block.

    Attributes
    ----------
    run : id
    threshold : score from which a detection counts
    precision, recall, f1 : at that threshold, box IoU 0.5
    f1_70 : at box IoU 0.7
    best_step : step, of ``yolo11`` epoch, of the weights that were kept
    seconds : of training, validations included
    """

    run: str
    threshold: float
    precision: float
    recall: float
    f1: float
    f1_70: float
    best_step: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store detect train --json`` prints."""
        return asdict(self) | {"split": "val"}


def chosen(run: str, pairs: Sequence[FramePairs], *, best_step: int, seconds: float) -> DetectorResult:
    """Return the result of a detector at the threshold that is best on these validation frames."""
    threshold, _ = best_confidence(pairs)
    at = count(pairs, threshold, 0.5)
    return DetectorResult(
        run=run,
        threshold=threshold,
        precision=at.precision,
        recall=at.recall,
        f1=at.f1,
        f1_70=count(pairs, threshold, 0.7).f1,
        best_step=best_step,
        seconds=seconds,
    )


def learning_rate(config: DetectorConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    warm = min(1.0, (step + 1) / WARMUP)
    return config.lr * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def train_detector(store: Store, config: DetectorConfig, *, progress: Progress = silent) -> DetectorResult:
    """Train a detector, or go on with an interrupted training of this configuration, and publish the run.

    Raises
    ------
    SplitError, StoreError
        The training or validation block is empty, or not embedded; a test frame has the pixels of one that trains.
    RunError
        The loss is not finite, or the state to go on from is damaged.
    """
    check_twins(store)
    config = replace(config, variants=training_variants(store, config.variants))
    views = DetectionViews(store, seed=config.seed, variants=config.variants or 0)
    validation = scorable_frames(store, "val")
    state, wanted = _new_training(views, config), _run_config(store, config)
    folder = take_up(store.path, KIND, STATE, lambda other: same_training(other, wanted))
    if folder is None:
        folder = new_run(store.path, KIND, wanted, label=config.backend)
    with folder.tidied(resumable=True):
        if (folder.path / STATE).exists():
            state.load(folder)
        _train(state, views, config, folder, lambda head: _pairs(store, head, validation), progress)
        result = _publish(store, state, folder, validation)
    catalog.index(store.path)
    return result


def _new_training(views: DetectionViews, config: DetectorConfig) -> _Training:
    torch.manual_seed(config.seed)
    head = GridHead(views.typical_side()).to(pick_device(config.device))
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return NetworkTraining(network=head, optimizer=optimizer)


def _run_config(store: Store, config: DetectorConfig) -> dict[str, Any]:
    about = asdict(config) | {"encoder": store.key, "checkpoint": None, "split": "train"}
    plain: dict[str, Any] = json.loads(json.dumps(about | {"frames": block_ranges(store)}))
    return plain


def _train(
    state: _Training,
    views: DetectionViews,
    config: DetectorConfig,
    folder: RunFolder,
    validate: Callable[[GridHead], list[FramePairs]],
    progress: Progress,
) -> None:
    """Go on from ``state.step`` to the end, or until validations brought nothing for too long."""
    every = config.evaluate_every or max(1, min(len(views.views) // config.batch, math.ceil(config.steps / 4)))
    left = range(state.step, config.steps if state.stale < PATIENCE else state.step)
    saved = time.monotonic()
    for batch in progress(views.batches(left, config.batch, config.workers), total=len(left), what="detect train"):
        state.losses.append(_step(state, batch, learning_rate(config, state.step)))
        state.step += 1
        if state.step % every == 0 or state.step == config.steps:
            _, f1 = best_confidence(validate(state.network.eval()))
            state.judge(f1, MARGIN)
            folder.log(step=state.step, loss=float(np.mean(state.losses)), f1=f1, best_f1=state.best_score)
            state.losses = []
        elif time.monotonic() - saved <= SAVE_SECONDS:
            continue
        state.save(folder)
        saved = time.monotonic()
        if state.stale >= PATIENCE:
            break


def _step(state: _Training, batch: Batch, lr: float) -> float:
    device = next(state.network.parameters()).device
    embedding, truth, boxes = batch
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    output = state.network.train()(embedding.to(device))
    loss = head_loss(output, {name: value.to(device) for name, value in truth.items()}, boxes)
    if not torch.isfinite(loss):
        raise RunError(f"the detector's loss became {float(loss.detach())} at step {state.step}; lower --lr")
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    return float(loss.detach())


def _pairs(store: Store, head: GridHead, frames: Sequence[str]) -> list[FramePairs]:
    pairs = []
    for truth in truths(store, frames):
        tiles = [tile.rect for tile in truth.frame.tiles]
        found = detect_frame(head, tile_embeddings(store, truth.frame), tiles, truth.frame.shape)
        pairs.append(box_pairs(found, truth))
    return pairs


def _publish(store: Store, state: _Training, folder: RunFolder, validation: Sequence[str]) -> DetectorResult:
    state.network.load_state_dict(state.best)
    pairs = _pairs(store, state.network.eval(), validation)
    save_head(folder.path / "weights.safetensors", state.network, store.key)
    result = chosen(folder.id, pairs, best_step=state.best_step, seconds=state.seconds)
    folder.log(step=state.step, result=result.to_json())
    (folder.path / STATE).unlink(missing_ok=True)
    folder.publish()
    return result
