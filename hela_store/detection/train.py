"""Train the ``grid`` head on stored embeddings; the image encoder is never loaded.

The validation block decides which weights are kept, when to stop, and at which score a detection counts. A training can
be interrupted: its state is saved, and every step is a pure function of (seed, step) and the weights so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hela_store.base.progress import Progress, silent
from hela_store.evaluation.leaks import check_twins
from hela_store.runs.finished import claim_run, find_finished
from hela_store.runs.folder import RunFolder, RunInfo
from hela_store.sam.devices import pick_device
from hela_store.store.store import Store
from hela_store.training.data import training_variants
from hela_store.training.schedule import learning_rate
from hela_store.training.settings import deciding, same_training, training_config
from hela_store.training.trainer import STATE, NotFinite, Plan, Trainer, Training, Verdict, adamw, open_run

from .box_scores import FramePairs, best_confidence, count
from .config import DetectorConfig
from .data import Batch, DetectionViews
from .frames import box_pairs, scorable_frames, tile_embeddings, truths
from .generic import generic_name, load_generic_head
from .head import WIDTH, GridHead, save_head, widened
from .losses import head_loss
from .propose import detect_frame

KIND = "detector"
WARMUP = 30
BETWEEN = 20
"""Least steps between validations, in a training of 80 or more: ``patience`` of them must outlast the warm-up."""
LEAST_GAIN = 1e-4
"""A validation counts as better where its score is above the best by more than this."""


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
    reused : whether the run was finished before it was asked for
    """

    run: str
    threshold: float
    precision: float
    recall: float
    f1: float
    f1_70: float
    best_step: int
    seconds: float
    reused: bool = False

    @classmethod
    def of(cls, run: RunInfo) -> DetectorResult:
        """Return the result that a published run has in its log."""
        logged = run.result()
        names = [name for name in cls.__dataclass_fields__ if name in logged]
        return cls(**{name: logged[name] for name in names} | {"reused": True})

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


def finished_detector(store: Store, about: Mapping[str, Any]) -> DetectorResult | None:
    """Return the finished training of a configuration, if there is one; a damaged log does not count."""
    run = find_finished(store.path, KIND, lambda run: same_training(run.config, about) and bool(run.result()))
    return None if run is None else DetectorResult.of(run)


def train_detector(
    store: Store, config: DetectorConfig, *, fresh: bool = False, progress: Progress = silent
) -> DetectorResult:
    """Train a detector, or go on with an interrupted training of this configuration, and publish the run.

    A finished run of this configuration is returned as it is, unless ``fresh``.

    Raises
    ------
    SplitError, StoreError
        The training or validation block is empty, or not embedded; a test frame has the pixels of one that trains.
    RunError
        The loss is not finite, or the state to go on from is damaged.
    """
    check_twins(store)
    config = replace(config, variants=training_variants(store, config.variants))
    about = training_config(store, config.settings() | {"encoder": store.key})
    if config.start == "generic":
        about["start"] = generic_name()  # another version ships other weights
    if fresh:
        return _train(store, config, about, resume=False, progress=progress)
    with claim_run(store.path, KIND, deciding(about), progress=progress):
        return finished_detector(store, about) or _train(store, config, about, resume=True, progress=progress)


def _train(
    store: Store, config: DetectorConfig, about: Mapping[str, Any], *, resume: bool, progress: Progress
) -> DetectorResult:
    views = DetectionViews(store, seed=config.seed, variants=config.variants or 0)
    validation = scorable_frames(store, "val")
    state = new_training(views, config)
    folder = open_run(store.path, KIND, about, label=config.backend, resume=resume)
    with folder.tidied(resumable=True):
        state.resume(folder)
        plan, task = head_plan(config, len(views.views)), HeadTask(store=store, frames=validation)
        if config.start == "generic" and not state.step:
            with state.averaged() as network:  # what is no better than the start is not kept
                state.best_score = task.validate(network).score
        trainer = Trainer(state=state, plan=plan, task=task, folder=folder)
        trainer.run(views.batches(trainer.left, config.batch, config.workers), progress)
        return _publish(store, state, folder, validation)


def new_training(views: DetectionViews, config: DetectorConfig) -> Training[GridHead]:
    """Return the state of a detector before its first step.

    Raises
    ------
    RunError
        It is to start from the shipped detector, and that is for embeddings of other weights.
    """
    torch.manual_seed(config.seed)
    if config.start == "generic":
        head = load_generic_head(views.encoder)
        head = widened(head, config.width or head.width).train()
    else:
        head = GridHead(views.typical_side(), config.width or WIDTH)
    head = head.to(pick_device(config.device))
    optimizer = adamw(list(head.parameters()), lr=config.lr, weight_decay=config.weight_decay)
    return Training(network=head, optimizer=optimizer)


def head_plan(config: DetectorConfig, views: int) -> Plan:
    """Return how a detector is trained on so many views."""
    quarter = math.ceil(config.steps / 4)
    return Plan(
        what="detect train",
        steps=config.steps,
        rate=partial(learning_rate, peak=config.lr, steps=config.steps, warmup=WARMUP),
        clip=5.0,
        evaluate_every=config.evaluate_every or max(1, min(max(views // config.batch, BETWEEN), quarter)),
        patience=config.patience,
        margin=LEAST_GAIN,
    )


@dataclass(frozen=True, kw_only=True)
class HeadTask:
    """Describe what the head learns, and its F1 on the validation frames."""

    store: Store
    frames: Sequence[str]

    def learn(self, network: GridHead, batch: Batch) -> Tensor:
        """Add the gradients of the loss on a batch of views; return the loss, (1,)."""
        device = next(network.parameters()).device
        embedding, truth, boxes = batch
        loss = head_loss(
            network(embedding.to(device)), {name: value.to(device) for name, value in truth.items()}, boxes
        )
        loss.backward()
        return loss.detach()[None]

    def loss(self, batch: Batch, values: list[float]) -> float:
        """Return what :meth:`learn` returned."""
        (loss,) = values
        if not math.isfinite(loss):
            raise NotFinite(f"the detector's loss became {loss}")
        return loss

    def validate(self, network: GridHead) -> Verdict:
        """Return the F1 at the best confidence."""
        _, f1 = best_confidence(_pairs(self.store, network, self.frames))
        return Verdict(score=f1, row={"f1": f1}, best_as="best_f1")

    def where(self, batch: Batch) -> str:
        """Return nothing: a batch of views has no name."""
        return ""


def _pairs(store: Store, head: GridHead, frames: Sequence[str]) -> list[FramePairs]:
    pairs = []
    for truth in truths(store, frames):
        tiles = [tile.rect for tile in truth.frame.tiles]
        found = detect_frame(head, tile_embeddings(store, truth.frame), tiles, truth.frame.shape)
        pairs.append(box_pairs(found, truth))
    return pairs


def _publish(store: Store, state: Training[GridHead], folder: RunFolder, validation: Sequence[str]) -> DetectorResult:
    state.network.load_state_dict(state.best)
    pairs = _pairs(store, state.network.eval(), validation)
    save_head(folder.path / "weights.safetensors", state.network, store.key)
    result = chosen(folder.id, pairs, best_step=state.best_step, seconds=state.seconds)
    folder.log(step=state.step, result=result.to_json())
    (folder.path / STATE).unlink(missing_ok=True)
    folder.publish()
    return result
