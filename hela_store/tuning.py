"""The loop that tunes a decoder or adapters; every step is a pure function of (seed, step) and the weights so far.

So a run that was killed goes on from its last saved state and ends in the same weights, to the bit at the same number
of threads, whatever the number of loader processes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .errors import RunError
from .evaluate import PromptScore
from .learner import Learner, weights_of
from .losses.decoder import decoder_loss, ramp
from .predict import window_sizes
from .progress import Progress
from .random import generator
from .runs import RunFolder
from .sam.adapters import learned, set_learned
from .sam.correct import corrected_prompts
from .sam.decoder import SamDecoder, SamPrompts, crop_windows, view_tokens
from .stream import FINE, TrainingStep, TrainingSteps
from .training_state import load_training, save_training

if TYPE_CHECKING:
    from .finetune import FinetuneConfig

LOSS_PIXELS = FINE // 64
"""Truth pixels per embedding position."""
STATE = "state.safetensors"
LOG_STEPS = 10
SAVE_SECONDS = 60.0
SCHEDULES = ("cosine", "linear", "constant")

Validate = Callable[[Learner], PromptScore]


@dataclass
class Tuning:
    """A learner on its way, and all that a resumed run needs.

    Attributes
    ----------
    learner, optimizer : as they are after ``step`` steps
    best : what it had learned at the best validation so far, that of ``best_step``
    stale : validations since then
    losses : of the steps since the last line of the log
    """

    learner: Learner
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    step: int = 0
    best_step: int = 0
    best_iou: float = -1.0
    stale: int = 0
    losses: list[float] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write everything a resumed run needs; StoreError without space, and then the state before is still there."""
        plain = {name: getattr(self, name) for name in ("step", "best_step", "best_iou", "stale", "losses")}
        about = {name: json.dumps(value) for name, value in plain.items()}
        parts = {"learned": learned(self.learner), "best": self.best}
        save_training(folder / STATE, parts, self.optimizer, about)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; RunError if it is damaged, CheckpointError if it is of another learner."""
        parts, about = load_training(folder / STATE, self.optimizer)
        set_learned(self.learner, parts["learned"])
        self.best = parts["best"]
        for name, value in about.items():
            setattr(self, name, json.loads(value))


def new_tuning(learner: Learner, config: FinetuneConfig) -> Tuning:
    """Return the beginning of a run."""
    parameters = list(learned(learner).values())
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return Tuning(learner=learner, optimizer=optimizer, best=weights_of(learner))


def learning_rate(config: FinetuneConfig, step: int) -> float:
    """Linear warm-up, then a cosine or a line down to a tenth, or none; without warm-up constant, as in the study."""
    if config.warmup == 0 and config.schedule == "cosine":
        return config.lr
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    share = min(1.0, step / config.steps)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[config.schedule]
    return config.lr * warm * (0.1 + 0.9 * left)


def step_loss(decoder: SamDecoder, batch: TrainingStep, config: FinetuneConfig) -> tuple[Tensor, Tensor]:
    """Return the losses of the cells of one view, over all passes, and the first pass's IoUs, (B,) each."""
    assert config.window is not None
    device = next(decoder.parameters()).device
    prompts = batch.prompts.to(device)
    tokens, labels, truth = view_tokens(batch.embedding.to(device)), batch.labels.to(device), batch.truth.to(device)
    sizes = window_sizes(prompts, config.window)
    rng = generator("passes", config.seed, batch.step)
    passes = 1 + max(config.clicks - 1 if prompts.points is not None else 0, int(rng.random() < config.refine))
    losses, ious = torch.zeros(len(prompts), device=device), torch.zeros(len(prompts), device=device)
    for size in sorted({int(size) for size in sizes}):
        part = torch.from_numpy(np.flatnonzero(sizes == size)).to(device)
        given: SamPrompts = prompts.take(part)
        origins: Tensor | None = None
        inside = truth  # cut to the windows below, once these are known
        for number in range(passes):
            lone = given.boxes is None and given.masks is None
            decoded = decoder(tokens, given, window=size, multimask=None if lone else False, origins=origins)
            if origins is None:
                origins = decoded.origins
                cut = crop_windows(truth[None, None], origins, size * LOSS_PIXELS, LOSS_PIXELS)[:, 0]
                inside = (cut == labels[part][:, None, None]).to(torch.uint8)
            weight = config.loss_weight * ramp(batch.step // config.accumulate, config.steps, config.loss_ramp)
            loss, real = decoder_loss(
                decoded.logits, decoded.iou, inside, multimask=lone, name=config.loss, weight=weight
            )
            losses = losses.index_add(0, part, loss / passes)
            if number == 0:
                ious = ious.index_copy(0, part, real)
            if number + 1 < passes:
                given = corrected_prompts(given, decoded.logits[:, 0], inside, origins, rng)
    return losses, ious


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
    every = config.evaluate_every or min(steps.steps_per_epoch, math.ceil(config.steps / 3))
    loader = DataLoader(steps, batch_size=None, num_workers=config.workers)
    left = 0 if _patience_is_over(state, config) else config.steps - state.step
    saved = time.monotonic()
    state.learner.train()
    try:
        for batches in progress(_groups(loader, config.accumulate, left), total=left, what=f"finetune {config.prompt}"):
            state.losses.append(_step(state, batches, config, folder))
            state.step += 1
            last = state.step == config.steps
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
    except KeyboardInterrupt:
        state.save(folder.path)
        raise


def _patience_is_over(state: Tuning, config: FinetuneConfig) -> bool:
    return config.patience > 0 and state.stale >= config.patience


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
    state.learner.eval()
    score = validate(state.learner)
    state.learner.train()
    state.stale += 1
    if score.mean_iou > state.best_iou:
        state.best_iou, state.best_step, state.stale = score.mean_iou, state.step, 0
        state.best = weights_of(state.learner)
    _log(state, folder, lr=lr, val=score.to_json())
    state.save(folder.path)


def _log(state: Tuning, folder: RunFolder, **more: object) -> None:
    folder.log(step=state.step, loss=float(np.mean(state.losses)), **more)
    state.losses = []
