"""The loop that tunes a decoder or adapters; every step is a pure function of (seed, step) and the weights so far.

So a run that was killed goes on from its last saved state and ends in the same weights, to the bit at the same number
of threads, whatever the number of loader processes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hela_store.base.progress import Progress
from hela_store.errors import RunError
from hela_store.evaluation.scores import PromptScore
from hela_store.runs.folder import RunFolder
from hela_store.sam.adapters import learned, set_learned

from .data import TrainingStep, TrainingSteps, loader_workers
from .learner import Learner, weights_of
from .step import step_loss
from .trainer import SAVE_SECONDS, STATE, learning_rate, load_training, save_training

if TYPE_CHECKING:
    from .config import FinetuneConfig

LOG_STEPS = 10

Validate = Callable[[Learner], PromptScore]


@dataclass
class Tuning:
    """A learner on its way, and all that a resumed run needs.

    Attributes
    ----------
    learner, optimizer : as they are after ``step`` steps
    best : what it had learned at the best validation so far, that of ``best_step``
    mean : running average of what learns; empty where none is kept
    stale : validations since then
    losses : of the steps since the last line of the log
    """

    learner: Learner
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    mean: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    best_step: int = 0
    best_iou: float = -1.0
    stale: int = 0
    losses: list[float] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write everything a resumed run needs; StoreError without space, and then the state before is still there."""
        plain = {name: getattr(self, name) for name in ("step", "best_step", "best_iou", "stale", "losses")}
        about = {name: json.dumps(value) for name, value in plain.items()}
        parts = {"learned": learned(self.learner), "best": self.best, "mean": self.mean}
        save_training(folder / STATE, parts, self.optimizer, about)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; RunError if it is damaged, CheckpointError if it is of another learner."""
        parts, about = load_training(folder / STATE, self.optimizer)
        set_learned(self.learner, parts.get("learned", {}))
        self.best = parts["best"]
        self.mean = {name: value.to(self.mean[name]) for name, value in parts.get("mean", {}).items()}
        for name, value in about.items():
            setattr(self, name, json.loads(value))

    @torch.no_grad()
    def update_mean(self, ema: float) -> None:
        """Move the running average, if one is kept, to the weights after ``step`` steps.

        The first steps weigh more, so that where a run began is soon forgotten (as in TensorFlow's
        ``ExponentialMovingAverage``).
        """
        decay = min(ema, (1 + self.step) / (10 + self.step))
        values = learned(self.learner)
        for name, mean in self.mean.items():
            mean.lerp_(values[name], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[Learner]:
        """Lend the learner as it is to be judged, with its averaged weights where such are kept, ready to predict."""
        own = weights_of(self.learner)
        set_learned(self.learner, own | self.mean)
        try:
            yield self.learner.eval()
        finally:
            set_learned(self.learner, own)
            self.learner.train()


def new_tuning(learner: Learner, config: FinetuneConfig) -> Tuning:
    """Return the beginning of a run."""
    parameters = list(learned(learner).values())
    optimizer = torch.optim.AdamW(parameters, lr=config.optimiser.lr, weight_decay=config.optimiser.weight_decay)
    mean = weights_of(learner) if config.optimiser.ema else {}
    return Tuning(learner=learner, optimizer=optimizer, best=weights_of(learner), mean=mean)


def train(
    steps: TrainingSteps,
    config: FinetuneConfig,
    state: Tuning,
    folder: RunFolder,
    validate: Validate,
    progress: Progress,
) -> None:
    """Go on from ``state.step`` to the end, or until ``patience`` validations brought nothing.

    Parameters
    ----------
    steps : ``accumulate`` views for every step that is left
    config : how
    state : changed in place, and saved to ``folder`` at every validation and once a minute
    folder : of the run; its log is appended to
    validate : scores a learner
    progress : shown step by step

    Raises
    ------
    RunError
        A loss or gradient is not finite; the weights before that step are saved.
    """
    every = config.validation.every or min(steps.steps_per_epoch, math.ceil(config.optimiser.steps / 3))
    device = next(state.learner.parameters()).device
    workers = loader_workers(config.data.workers, device, steps.start_method)
    start_method = steps.start_method if workers else None
    loader = DataLoader(steps, batch_size=None, num_workers=workers, multiprocessing_context=start_method)
    left = 0 if _patience_is_over(state, config) else config.optimiser.steps - state.step
    saved = time.monotonic()
    state.learner.train()
    what = f"finetune {config.prompt}" + (f", on from step {state.step}" if state.step else "")
    # whatever ends the process, Ctrl-C too, may come in the middle of a step: only whole ones are ever saved
    for batches in progress(_groups(loader, config.optimiser.accumulate, left), total=left, what=what):
        state.losses.append(_step(state, batches, config, folder))
        state.step += 1
        state.update_mean(config.optimiser.ema)
        last = state.step == config.optimiser.steps
        if state.step % every == 0 or last:
            _validation(state, folder, validate, learning_rate(config, state.step - 1))
            saved = time.monotonic()
            if _patience_is_over(state, config):
                break
        elif state.step % LOG_STEPS == 0:
            _log(state, folder, lr=learning_rate(config, state.step - 1))
        if time.monotonic() - saved > SAVE_SECONDS:
            state.save(folder.path)
            saved = time.monotonic()


def _patience_is_over(state: Tuning, config: FinetuneConfig) -> bool:
    return config.validation.patience > 0 and state.stale >= config.validation.patience


def _groups(loader: DataLoader[TrainingStep], size: int, count: int) -> Iterator[list[TrainingStep]]:
    if count == 0:
        return
    views = iter(loader)
    for _ in range(count):
        yield [next(views) for _ in range(size)]


def _step(state: Tuning, batches: list[TrainingStep], config: FinetuneConfig, folder: RunFolder) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        state.learner.draw_noise(config.seed, batch.step)
        seen = replace(batch, embedding=state.learner.embed(batch.embedding.to(state.learner.device)))
        losses, _ = step_loss(state.learner.decoder, seen, config)
        if not torch.isfinite(losses).all():
            wrong = [cell for cell, bad in zip(batch.cells, ~torch.isfinite(losses).cpu(), strict=True) if bad]
            _stop(state, folder, f"the loss became {float(losses.sum().detach())}", batch, wrong)
        loss = losses.mean() / len(batches)
        loss.backward()
        total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(list(learned(state.learner).values()), 1.0)
    if not torch.isfinite(norm):
        _stop(state, folder, f"the gradient became {float(norm)}", batches[-1], list(batches[-1].cells))
    state.optimizer.step()
    return total


def _stop(state: Tuning, folder: RunFolder, what: str, batch: TrainingStep, cells: list[str]) -> None:
    state.save(folder.path)
    named = ", ".join(cells[:3]) + (", ..." if len(cells) > 3 else "")
    raise RunError(
        f"{what} at step {state.step} (view {batch.view}, cells {named}); lower --lr; the last good weights are in "
        f"{folder.path}"
    )


def _validation(state: Tuning, folder: RunFolder, validate: Validate, lr: float) -> None:
    state.stale += 1
    with state.averaged() as learner:
        score = validate(learner)
        if score.mean_iou > state.best_iou:
            state.best_iou, state.best_step, state.stale = score.mean_iou, state.step, 0
            state.best = weights_of(learner)
    _log(state, folder, lr=lr, val=score.to_json())
    state.save(folder.path)


def _log(state: Tuning, folder: RunFolder, **more: object) -> None:
    folder.log(step=state.step, loss=float(np.mean(state.losses)), **more)
    state.losses = []
