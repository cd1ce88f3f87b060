"""Tune the mask decoder on stored embeddings; the prompt encoder stays frozen, the image encoder is never loaded.

The zero-shot score on the validation block is taken first, then after every epoch; the best decoder by validation is
what a run keeps. A run that was interrupted goes on where it was, with the same next batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import catalog
from .errors import PromptError, RecipeError, RunError, StoreError
from .evaluate import PromptScore, summarise
from .losses import decoder_loss
from .predict import DEFAULT_WINDOW, check_window, window_sizes
from .progress import Progress, silent
from .random import generator
from .runs import RunFolder, new_run, partial_runs, resume_run
from .sam.decoder import SamDecoder, crop_windows, load_decoder, save_decoder, window_origins
from .sam.encoder import pick_device
from .scoring import Question, Score, answer, frame_cells, labelled_frames, median_training_radius, truth_questions
from .store import Store
from .stream import FINE, TrainingStep, TrainingSteps, stored_variants
from .training_state import load_training, save_training

PROMPTS = ("box", "point", "mask")
LOSS_PIXELS = FINE // 64
"""Truth pixels per embedding position."""
STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a decoder is tuned.

    Attributes
    ----------
    prompt : ``"box"``, ``"point"`` or ``"mask"``
    steps : optimiser steps, one view each
    lr : of AdamW at its peak, after ``warmup`` steps; then a cosine to a tenth
    weight_decay : of AdamW
    cells : most cells of the view that learn at once
    seed : of batches and prompts
    window : positions along each side a prompt reads; None for the encoder's default
    warmup : steps
    evaluate_every : steps between validation scores; 0 for one epoch, but at least three times a run
    validation_cells : at most so many cells, spread over the validation block
    workers : loader processes that prepare batches ahead
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    prompt: str = "box"
    steps: int = 500
    lr: float = 1e-4
    weight_decay: float = 0.01
    cells: int = 16
    seed: int = 0
    window: int | None = None
    warmup: int = 20
    evaluate_every: int = 0
    validation_cells: int = 300
    workers: int = 1
    variants: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise PromptError(f"prompt is {self.prompt!r}, expected one of {', '.join(PROMPTS)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}, expected a positive number such as 1e-4")
        for name, least in (("steps", 1), ("cells", 1), ("warmup", 0), ("evaluate_every", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")
        if self.validation_cells < 1:
            raise RecipeError(f"validation_cells is {self.validation_cells}, expected 1 or more")
        if self.window is not None:
            check_window(self.window)
        if self.variants is not None and self.variants < 0:
            raise RecipeError(f"variants is {self.variants}, expected 0 or more")


def paper_preset(config: FinetuneConfig) -> FinetuneConfig:
    """Return the study's way: Adam at lr 1e-5, one view and one random cell a step, SAM's own full window."""
    return replace(config, lr=1e-5, weight_decay=0.0, cells=1, warmup=0, window=64)


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A tuned decoder and how it compares on the validation block.

    Attributes
    ----------
    run : id
    prompt : kind it was tuned for
    zero_shot, tuned : scores on the same cells and prompts; both hold the image-free row
    best_step : step of the weights that were kept; 0 if no step was better than none
    better, worse : share of cells whose IoU rose or fell by more than 0.01
    mean_change : mean paired change of IoU
    """

    run: str
    prompt: str
    zero_shot: PromptScore
    tuned: PromptScore
    best_step: int
    better: float
    worse: float
    mean_change: float

    @property
    def is_worse(self) -> bool:
        """Whether tuning did not help: no step was better than the decoder it began with."""
        return self.best_step == 0

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store finetune --json`` prints."""
        scores = {"zero_shot": self.zero_shot.to_json(), "tuned": self.tuned.to_json()}
        return asdict(self) | scores | {"is_worse": self.is_worse, "split": "val"}


@dataclass
class _Training:
    decoder: SamDecoder
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    step: int = 0
    best_step: int = 0
    best_iou: float = -1.0

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        about = {"step": str(self.step), "best_step": str(self.best_step), "best_iou": repr(self.best_iou)}
        parts = {"decoder": self.decoder.state_dict(), "best": self.best}
        save_training(path, parts, self.optimizer, about)

    def load(self, path: Path) -> None:
        """Read what :meth:`save` wrote; RunError if it is damaged."""
        parts, about = load_training(path, self.optimizer)
        self.decoder.load_state_dict(parts["decoder"])
        self.best = parts["best"]
        self.step, self.best_step = int(about["step"]), int(about["best_step"])
        self.best_iou = float(about["best_iou"])


def step_loss(decoder: SamDecoder, batch: TrainingStep, window: int) -> tuple[Tensor, Tensor]:
    """Return the mean loss over the cells of a step and their IoUs, (B,)."""
    device = next(decoder.parameters()).device
    prompts = batch.prompts.to(device)
    embedding, labels, truth = (part.to(device) for part in (batch.embedding, batch.labels, batch.truth))
    lone = prompts.boxes is None and prompts.masks is None
    sizes = window_sizes(prompts, window)
    losses, ious = [], []
    for size in sorted({int(size) for size in sizes}):
        part = torch.from_numpy(np.flatnonzero(sizes == size)).to(device)
        some = prompts.take(part)
        origins = window_origins(some, size)
        if some.masks is not None:
            some = replace(some, masks=crop_windows(some.masks, origins, size * 4, 4))
        logits, iou = decoder.decode(crop_windows(embedding[None], origins, size), some, origins)
        cut = crop_windows(truth[None, None], origins, size * LOSS_PIXELS, LOSS_PIXELS)[:, 0]
        inside = (cut == labels[part][:, None, None]).to(torch.uint8)
        loss, real = decoder_loss(logits, iou, inside, multimask=lone)
        losses.append(loss)
        ious.append(real)
    return torch.cat(losses).mean(), torch.cat(ious)


def learning_rate(config: FinetuneConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a tenth; constant without warm-up, as in the study."""
    if config.warmup == 0:
        return config.lr
    warm = min(1.0, (step + 1) / config.warmup)
    return config.lr * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def finetune(
    store: Store,
    config: FinetuneConfig | None = None,
    *,
    resume: bool = True,
    progress: Progress = silent,
) -> FinetuneResult:
    """Tune the mask decoder for one prompt kind and publish the run.

    Parameters
    ----------
    store : with the views of its train and val blocks embedded
    config : how; the defaults where None
    resume : go on with an interrupted run of the very same configuration, if there is one

    Raises
    ------
    SplitError, StoreError
        A block is empty, or not embedded.
    RunError
        The loss is not finite; the last good weights stay in the partial run.
    """
    config = config or FinetuneConfig()
    config = replace(config, window=config.window or DEFAULT_WINDOW[store.recipe.encoder.architecture])
    config = replace(config, variants=_variants(store, config))
    device = pick_device(config.device)
    source = store.encoder_folder() / "decoder.safetensors"
    decoder = load_decoder(source, device)
    for parameter in decoder.prompt_encoder.parameters():
        parameter.requires_grad_(False)
    questions = validation_questions(store, config)
    folder, state = _open_run(store, config, decoder, resume)
    try:
        zero = answer(store, load_decoder(source, device), questions, _window(config))
        if state.step == 0:
            state.best_iou = _mean_iou(zero)
            folder.log(step=0, val=summarise(zero)[config.prompt].to_json())
        _train(store, config, state, folder, _validator(store, config, questions), progress)
        decoder.load_state_dict(state.best)
        tuned = answer(store, decoder.eval(), questions, _window(config))
        save_decoder(folder.path / "weights.safetensors", decoder, store.recipe.encoder.architecture)
        result = _result(folder.id, config, zero, tuned, state.best_step)
        folder.log(step=state.step, result=result.to_json())
        (folder.path / STATE).unlink(missing_ok=True)
        folder.publish()
    except BaseException:
        if folder.path.name.endswith(".partial"):
            folder.close()
        raise
    catalog.index(store.path)
    return result


def _variants(store: Store, config: FinetuneConfig) -> int:
    stored = stored_variants(store)
    if (config.variants or 0) > stored:
        raise RecipeError(
            f"variants is {config.variants}, the training views have {stored}; raise augment.variants in store.toml "
            "and run `hela-store embed`"
        )
    return stored if config.variants is None else config.variants


def _window(config: FinetuneConfig) -> int:
    assert config.window is not None
    return config.window


def _open_run(
    store: Store, config: FinetuneConfig, decoder: SamDecoder, resume: bool
) -> tuple[RunFolder, _Training]:
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    best = {k: v.detach().clone() for k, v in decoder.state_dict().items()}
    state = _Training(decoder=decoder, optimizer=optimizer, best=best)
    about = asdict(config) | {"encoder": store.key, "checkpoint": None, "split": "train"}
    wanted = json.loads(json.dumps(about))
    for name in reversed(partial_runs(store.path)) if resume else ():
        path = store.path / "runs" / f".{name}.partial"
        if not (path / STATE).exists() or json.loads((path / "config.json").read_text()).get("config") != wanted:
            continue
        try:
            folder = resume_run(store.path, name)
        except (RunError, StoreError):
            continue  # another process is at it
        state.load(folder.path / STATE)
        return folder, state
    return new_run(store.path, "finetune", about, label=config.prompt), state


def validation_questions(store: Store, config: FinetuneConfig) -> list[Question]:
    """Return the validation prompts of a run: seed 0, at most ``validation_cells``, spread evenly over the block."""
    frames, radius = labelled_frames(store, "val"), median_training_radius(store)
    count = sum(len(part.cells) for part in frame_cells(store, frames))
    share = min(1.0, config.validation_cells / count)
    questions = []
    for frame in frame_cells(store, frames):
        kept = [c for c in frame.cells if generator("validation", c["cell"]).random() < share]
        questions += truth_questions(replace(frame, cells=kept), [config.prompt], [0], radius)
    return questions


def _validator(
    store: Store, config: FinetuneConfig, questions: list[Question]
) -> Callable[[SamDecoder], PromptScore]:
    def validate(decoder: SamDecoder) -> PromptScore:
        decoder.eval()
        scores = answer(store, decoder, questions, _window(config))
        decoder.train()
        return summarise(scores)[config.prompt]

    return validate


def _train(
    store: Store,
    config: FinetuneConfig,
    state: _Training,
    folder: RunFolder,
    validate: Callable[[SamDecoder], PromptScore],
    progress: Progress,
) -> None:
    steps = TrainingSteps(
        store,
        config.prompt,
        cells=config.cells,
        seed=config.seed,
        first=state.step,
        count=config.steps - state.step,
        variants=config.variants or 0,
    )
    every = config.evaluate_every or min(steps.steps_per_epoch, math.ceil(config.steps / 3))
    loader = DataLoader(steps, batch_size=None, num_workers=config.workers)
    losses: list[float] = []
    state.decoder.train()
    try:
        for batch in progress(iter(loader), total=len(steps), what=f"finetune {config.prompt}"):
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(config, state.step)
            loss, _ = step_loss(state.decoder, batch, _window(config))
            if not torch.isfinite(loss):
                raise RunError(
                    f"the loss became {float(loss.detach())} at step {batch.step} (view {batch.view}, cells "
                    f"{', '.join(batch.cells[:3])} ...); lower --lr; the last good weights are in {folder.path}"
                )
            state.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(state.decoder.parameters(), 1.0)
            state.optimizer.step()
            state.step += 1
            losses.append(float(loss.detach()))
            if state.step % every == 0 or state.step == config.steps:
                _checkpoint(state, folder, validate(state.decoder), losses)
                losses = []
    except KeyboardInterrupt:
        state.save(folder.path / STATE)
        raise


def _checkpoint(state: _Training, folder: RunFolder, score: PromptScore, losses: list[float]) -> None:
    if score.mean_iou > state.best_iou:
        state.best_iou, state.best_step = score.mean_iou, state.step
        state.best = {k: v.detach().clone() for k, v in state.decoder.state_dict().items()}
    folder.log(step=state.step, loss=float(np.mean(losses)), val=score.to_json())
    state.save(folder.path / STATE)


def _mean_iou(scores: list[Score]) -> float:
    return float(np.mean([score.iou for score in scores]))


def _result(
    run: str, config: FinetuneConfig, zero: list[Score], tuned: list[Score], best_step: int
) -> FinetuneResult:
    change = np.array([after.iou - before.iou for before, after in zip(zero, tuned, strict=True)])
    return FinetuneResult(
        run=run,
        prompt=config.prompt,
        zero_shot=summarise(zero)[config.prompt],
        tuned=summarise(tuned)[config.prompt],
        best_step=best_step,
        better=float((change > 0.01).mean()),
        worse=float((change < -0.01).mean()),
        mean_change=float(change.mean()),
    )
