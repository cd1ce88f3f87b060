"""Fine-tuning as a task for the trainer: the loss of one step over several views, and the state it begins with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hela_store.evaluation.scores import PromptScore
from hela_store.sam.adapters import learned, set_learned

from .data import TrainingStep, TrainingSteps, loader_workers
from .learner import Learner
from .loading import load
from .schedule import learning_rate
from .step import step_loss
from .trainer import NotFinite, Training, Verdict, adamw

if TYPE_CHECKING:
    from .config import FinetuneConfig

Views = list[TrainingStep]
"""The views of one optimiser step."""


def rate(config: FinetuneConfig, step: int) -> float:
    """Return the learning rate of one step of a fine-tuning."""
    how = {"steps": config.optimiser.steps, "warmup": config.optimiser.warmup}
    return learning_rate(step, peak=config.optimiser.lr, schedule=config.optimiser.schedule, **how)


def new_tuning(learner: Learner, config: FinetuneConfig) -> Training[Learner]:
    """Return the state at the beginning of a run; only the parameters that learn are kept in it."""
    how = config.optimiser
    optimizer = adamw(list(learned(learner).values()), lr=how.lr, weight_decay=how.weight_decay)
    return Training(network=learner, optimizer=optimizer, read=learned, write=set_learned, ema=config.optimiser.ema)


def view_groups(steps: TrainingSteps, config: FinetuneConfig, count: int, device: torch.device) -> Iterator[Views]:
    """Yield ``accumulate`` views for each of ``count`` optimiser steps, prepared by loader processes if that helps."""
    if count == 0:
        return
    workers = loader_workers(config.data.workers, device, steps.start_method)
    views = load(steps, workers, steps.start_method)
    for _ in range(count):
        yield [next(views) for _ in range(config.optimiser.accumulate)]


@dataclass(frozen=True, kw_only=True)
class TuningTask:
    """Fine-tuning as a task of the trainer.

    Attributes
    ----------
    config : resolved
    score : returns the mean score of a learner on the validation prompts; None where nothing is validated
    """

    config: FinetuneConfig
    score: Callable[[Learner], PromptScore] | None = None

    def learn(self, network: Learner, batch: Views) -> Tensor:
        """Add the gradients of the mean loss over the cells of each view; return the losses and the mean of each."""
        found = list[Tensor]()
        for view in batch:
            network.draw_noise(self.config.seed, view.step)
            seen = replace(view, embedding=network.embed(view.embedding.to(network.device, non_blocking=True)))
            losses, _ = step_loss(network.decoder, seen, self.config)
            loss = losses.mean() / len(batch)
            loss.backward()
            found += [losses.detach(), loss.detach()[None]]
        return torch.cat(found)

    def loss(self, batch: Views, values: list[float]) -> float:
        """Return the mean over views of what :meth:`learn` returned."""
        total, left = 0.0, iter(values)
        for view in batch:
            each, mean = list(islice(left, len(view.cells))), next(left)
            wrong = [cell for cell, value in zip(view.cells, each, strict=True) if not math.isfinite(value)]
            if wrong:
                raise NotFinite(f"the loss became {sum(each)}", _named(view.view, wrong))
            total += mean
        return total

    def validate(self, network: Learner) -> Verdict:
        """Return the mean IoU on the validation prompts, and all scores for the log."""
        assert self.score is not None
        found = self.score(network)
        return Verdict(score=found.mean_iou, row={"val": found.to_json()})

    def where(self, batch: Views) -> str:
        """Name the last view and its first cells."""
        return _named(batch[-1].view, list(batch[-1].cells))


def _named(view: str, cells: list[str]) -> str:
    return f"view {view}, cells {', '.join(cells[:3])}" + (", ..." if len(cells) > 3 else "")
