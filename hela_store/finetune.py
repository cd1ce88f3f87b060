"""Tune the mask decoder on stored embeddings; the prompt encoder stays frozen.

The image encoder is never loaded, but where its last blocks adapt, too: then those run on stored tokens (``cut``).

The zero-shot score on the validation block is taken first, then after every epoch; the best decoder by validation is
what a run keeps. A run that was interrupted goes on where it was, with the same next batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import catalog, scalars
from .errors import RecipeError, RunError
from .evaluate import PromptScore, mean_score, summarise
from .guard import paired_change
from .leaks import block_ranges, check_twins, check_untouched
from .learner import Learner, new_learner, save_learner
from .losses.decoder import REGION, check_loss
from .predict import DEFAULT_WINDOW, check_window
from .progress import Progress, silent
from .random import generator
from .runs import RunFolder, load_run, new_run, take_up
from .sam.adapters import set_learned
from .sam.encoder import pick_device
from .scoring import Question, Score, answer, frame_cells, labelled_frames, median_training_radius, truth_questions
from .store import Store
from .stream import TrainingSteps, training_variants
from .training_prompts import check_training_prompt, validation_kinds
from .training_state import STATE
from .tuned import store_of
from .tuning import MASKS, SCHEDULES, Tuning, new_tuning, train

LEAST = {
    "steps": 1,
    "cells": 1,
    "warmup": 0,
    "evaluate_every": 0,
    "patience": 0,
    "accumulate": 1,
    "clicks": 1,
    "validation_cells": 1,
    "workers": 0,
    "rank": 1,
}
ENCODER = ("encoder", "encoder-full")
ADAPT = ("decoder", *ENCODER)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a decoder is tuned.

    Attributes
    ----------
    prompt : ``"box"``, ``"point"``, ``"mask"``, ``"box+mask"``, ``"point+mask"``; or ``"all"``, one decoder for all
    steps : optimiser steps
    lr : of AdamW at its peak, after ``warmup`` steps
    schedule : ``"cosine"`` or ``"linear"``, down to a tenth, or ``"constant"``
    weight_decay : of AdamW
    ema : decay of a running average of the weights, such as 0.99; that is what is validated and kept. 0 for none
    cells : most cells of the view that learn at once
    seed : of batches and prompts
    window : positions along each side a prompt reads; None for the encoder's default
    warmup : steps
    evaluate_every : steps between validation scores; 0 for one epoch, but at least three times a run
    patience : stop after so many validations without a better one; 0 for never
    accumulate : views a step
    loss : one of :data:`hela_store.losses.decoder.LOSSES`
    loss_weight : of what the loss has beyond Dice + cross-entropy
    masks : of the three masks of a lone point ``"best"`` lets the best learn, so that they stay different readings, and
        ``"all"`` each: of one kind of cell there is one reading, and whichever predicted IoU takes has learned it
    loss_ramp : share of the steps over which that weight grows from 0
    clicks : passes with point prompts: the first click, then one each in the region of the error, logits fed back
    refine : share of the steps with a second pass for any kind of prompt
    init : a fine-tuning run (id, its beginning or ``"latest"``) whose weights are the beginning; None for zero-shot
    validation_cells : at most so many cells, spread over the validation block
    workers : loader processes that prepare batches ahead; None for :func:`hela_store.stream.loader_workers`
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    adapt : None tunes the mask decoder; ``"decoder"`` low-rank adapters in it; ``"encoder"`` adapters in the image
        encoder's blocks after ``cut`` and the mask decoder; ``"encoder-full"`` these blocks themselves
    cut : blocks whose stored tokens are read (``embed --cut``); 0 runs the whole encoder at every step
    rank : of the adapters
    conv : Conv-LoRA adapters
    linear : adapters beside all linear layers of a block, not only the projections to q and v
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    prompt: str = "box"
    steps: int = 500
    lr: float = 3e-4
    weight_decay: float = 0.01
    ema: float = 0.99
    cells: int = 16
    seed: int = 0
    window: int | None = None
    warmup: int = 20
    schedule: str = "cosine"
    evaluate_every: int = 0
    patience: int = 0
    accumulate: int = 1
    loss: str = REGION
    loss_weight: float = 1.0
    loss_ramp: float = 0.5
    masks: str = "best"
    clicks: int = 1
    refine: float = 0.0
    init: str | None = None
    validation_cells: int = 300
    workers: int | None = None
    variants: int | None = None
    adapt: str | None = None
    cut: int | None = None
    rank: int = 4
    conv: bool = False
    linear: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_training_prompt(self.prompt)
        check_loss(self.loss)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}, expected a positive number such as 1e-4")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}, expected {least} or more")
        for name in ("loss_ramp", "refine"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected a share, 0 to 1")
        if not 0 <= self.ema < 1:
            raise RecipeError(f"ema is {self.ema}, expected a decay such as 0.99, or 0 for none")
        if not (math.isfinite(self.loss_weight) and self.loss_weight >= 0):
            raise RecipeError(f"loss_weight is {self.loss_weight}, expected 0 or more")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")
        if self.masks not in MASKS:
            raise RecipeError(f"masks is {self.masks!r}, expected one of {', '.join(MASKS)}")
        if self.clicks > 1 and "point" not in self.prompt and self.prompt != "all":
            raise RecipeError(f"clicks is {self.clicks}, but prompt {self.prompt!r} has no points to add clicks to")
        if self.masks != "best" and self.prompt not in ("point", "all"):
            raise RecipeError(f"masks is {self.masks!r}, but only a lone point has several; prompt is {self.prompt!r}")
        if self.window is not None:
            check_window(self.window)
        if self.variants is not None and self.variants < 0:
            raise RecipeError(f"variants is {self.variants}, expected 0 or more")
        self._check_adapt()

    def _check_adapt(self) -> None:
        if self.adapt is not None and self.adapt not in ADAPT:
            raise RecipeError(f"adapt is {self.adapt!r}, expected one of {', '.join(ADAPT)}")
        encoder = self.adapt in ENCODER
        if encoder and self.cut is None:
            raise RecipeError(
                "adapting the encoder needs cut: how many of its blocks stay as they are; `hela-store embed --cut K` "
                "stores their tokens, 0 stores nothing"
            )
        if encoder and self.init is not None:
            raise RecipeError("init begins with a tuned decoder, an adapting encoder with its own; leave it out")
        for name in ("conv", "linear"):
            if getattr(self, name) and self.adapt != "encoder":
                raise RecipeError(f"{name} says how the encoder is adapted; it needs adapt = 'encoder'")
        if self.cut is not None and not encoder:
            raise RecipeError("cut says from which block on the encoder is adapted; it needs adapt = 'encoder'")
        if self.rank != FinetuneConfig.rank and self.adapt not in ("decoder", "encoder"):
            raise RecipeError("rank is that of low-rank adapters; it needs adapt = 'decoder' or 'encoder'")


def paper_preset(config: FinetuneConfig) -> FinetuneConfig:
    """Return the study's way: Adam at lr 1e-5, one view and one random cell a step, SAM's own full window."""
    return replace(config, lr=1e-5, weight_decay=0.0, ema=0.0, cells=1, warmup=0, window=64)


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A tuned decoder and how it compares on the validation block.

    Attributes
    ----------
    run : id
    prompt : kind it was tuned for
    zero_shot, tuned : scores on the same cells and prompts; both hold the image-free row
    by_kind : tuned scores by prompt kind
    best_step : step of the weights that were kept; 0 if no step was better than none
    better, worse : share of cells whose IoU rose or fell by more than 0.01
    mean_change, low, high : mean paired change of IoU and its 95 % interval over frames
    frames : how many of these there are; with fewer than five the interval says little
    verdict : ``"better"``, ``"worse"``, ``"no difference"`` or ``"no interval"`` (one frame), measuring rule 7
    adapt : what was adapted, None for the mask decoder itself
    """

    run: str
    prompt: str
    zero_shot: PromptScore
    tuned: PromptScore
    by_kind: dict[str, PromptScore]
    best_step: int
    better: float
    worse: float
    mean_change: float
    low: float
    high: float
    verdict: str
    frames: int
    adapt: str | None = None

    @property
    def adapts_encoder(self) -> bool:
        """Whether its decoder reads embeddings of an encoder of its own."""
        return self.adapt in ENCODER

    @property
    def is_worse(self) -> bool:
        """Whether tuning did not help: no step was better than the decoder it began with, or that was worse."""
        return self.best_step == 0 or self.verdict == "worse"

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store finetune --json`` prints."""
        scores = {"zero_shot": self.zero_shot.to_json(), "tuned": self.tuned.to_json()}
        kinds = {kind: score.to_json() for kind, score in self.by_kind.items()}
        return asdict(self) | scores | {"by_kind": kinds, "is_worse": self.is_worse, "split": "val"}


def finetune(
    store: Store,
    config: FinetuneConfig | None = None,
    *,
    resume: bool = True,
    cache_dir: Path | None = None,
    tensorboard: Path | None = None,
    progress: Progress = silent,
) -> FinetuneResult:
    """Tune the mask decoder, or adapters, for one prompt kind and publish the run.

    Parameters
    ----------
    store : with the views of its train and val blocks embedded
    config : how; the defaults where None
    resume : go on with an interrupted run of the very same configuration, if there is one
    cache_dir : where a fetched official checkpoint lies; only an encoder that adapts is loaded
    tensorboard : folder in which a folder of the run's id gets its loss, rates and scores, too; None for none

    Raises
    ------
    RecipeError, CheckpointError
        A rank or cut the encoder does not have; its weights are missing or others.
    SplitError, StoreError
        A block is empty, or not embedded; a test frame has the pixels of one that trains.
    RunError
        What it begins from trained on validation frames; the loss is not finite: the last good weights stay in the
        partial run.
    """
    check_twins(store)
    config = resolved(store, config or FinetuneConfig())
    began_from = None if config.init is None else load_run(store.path, config.init, "finetune")
    check_untouched(store, began_from, labelled_frames(store, "val"), "val")
    source, device = source_of(store, config), pick_device(config.device)

    def learner(how: FinetuneConfig) -> Learner:
        return new_learner(source, how, device, cache_dir=cache_dir, progress=progress).eval()

    def score(one: Learner) -> list[Score]:
        return answer(source, one.decoder, questions, _window(config), one.embed)

    questions = validation_questions(source, config)
    begin = learner(config)
    # what is adapted begins as what it came with
    zero = score(begin if config.init is None else learner(replace(config, init=None)))
    folder, state = _open_run(source, config, begin, resume)
    with folder.tidied(resumable=True):
        with nullcontext() if tensorboard is None else scalars.tensorboard(tensorboard / folder.id) as folder.tell:
            result = _tune(source, config, (folder, state), (zero, score), progress)
    catalog.index(store.path)
    return result


def _tune(
    store: Store,
    config: FinetuneConfig,
    run: tuple[RunFolder, Tuning],
    judge: tuple[list[Score], Callable[[Learner], list[Score]]],
    progress: Progress,
) -> FinetuneResult:
    """Take a run from where it is to its end and publish it; ``judge`` is the zero-shot scores and what scores."""
    (folder, state), (zero, score) = run, judge
    if state.step == 0:
        first = zero if config.init is None else score(state.learner)
        state.best_iou = mean_score(first).mean_iou
        # a run that has a log can be gone on with
        state.save(folder.path)
        folder.rewind(-1)
        folder.log(step=0, val=mean_score(first).to_json())
    train(_steps(store, config, state), config, state, folder, lambda one: mean_score(score(one)), progress)
    set_learned(state.learner, state.best)
    tuned = score(state.learner.eval())
    save_learner(folder.path, store, config, state.learner)
    result = _result(folder.id, config, zero, tuned, state.best_step)
    folder.log(step=state.step, result=result.to_json())
    (folder.path / STATE).unlink(missing_ok=True)
    folder.publish()
    return result


def source_of(store: Store, config: FinetuneConfig) -> Store:
    """Return the store as it is read: that of the tokens after the cut, where the encoder adapts."""
    return store if config.cut is None else store.with_encoder(cut=config.cut)


def resolved(store: Store, config: FinetuneConfig) -> FinetuneConfig:
    """Return the configuration with what the store decides: window, variants, and the whole id of ``init``."""
    window = config.window or DEFAULT_WINDOW[store.recipe.encoder.architecture]
    config = replace(config, window=window, variants=training_variants(source_of(store, config), config.variants))
    if config.init is None:
        return config
    run = load_run(store.path, config.init, "finetune")
    if store_of(store, run).key != store.key:
        raise RunError(f"run {run.id} adapted the encoder; to begin with it, set encoder.adapter in store.toml")
    return replace(config, init=run.id)


def _window(config: FinetuneConfig) -> int:
    assert config.window is not None
    return config.window


def _steps(store: Store, config: FinetuneConfig, state: Tuning) -> TrainingSteps:
    return TrainingSteps(
        store,
        config.prompt,
        cells=config.cells,
        seed=config.seed,
        first=state.step * config.accumulate,
        count=(config.steps - state.step) * config.accumulate,
        variants=config.variants or 0,
    )


def run_config(store: Store, config: FinetuneConfig) -> dict[str, Any]:
    """Return what a run's ``config.json`` says of its configuration; equal ones are the same run."""
    about = asdict(config) | {"encoder": source_of(store, config).key, "checkpoint": config.init, "split": "train"}
    about |= {"frames": block_ranges(store)}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


BEFORE = {"ema": 0.0, "masks": "best", "adapt": None, "cut": None, "rank": 4, "conv": False, "linear": False}
"""What runs did that are older than these choices."""


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's configuration decides its weights: all but what only says how the work is done."""
    return {name: value for name, value in (BEFORE | dict(config)).items() if name != "workers"}


def same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations give the same weights."""
    first, second = deciding(one), deciding(other)
    if not ("frames" in first and "frames" in second):  # a run of before they were kept
        first.pop("frames", None), second.pop("frames", None)
    return first == second


def _open_run(store: Store, config: FinetuneConfig, learner: Learner, resume: bool) -> tuple[RunFolder, Tuning]:
    state, wanted = new_tuning(learner, config), run_config(store, config)
    folder = take_up(store.path, "finetune", STATE, lambda other: same_run(other, wanted)) if resume else None
    if folder is None:
        return new_run(store.path, "finetune", wanted, parent=config.init, label=_label(config)), state
    state.load(folder.path)
    folder.rewind(state.step)
    return folder, state


def _label(config: FinetuneConfig) -> str:
    return config.prompt if config.adapt is None else f"{config.prompt} {config.adapt}"


def validation_questions(store: Store, config: FinetuneConfig) -> list[Question]:
    """Return the validation prompts of a run: seed 0, at most ``validation_cells``, spread evenly over the block."""
    frames, radius = labelled_frames(store, "val"), median_training_radius(store)
    count = sum(len(part.cells) for part in frame_cells(store, frames))
    share = min(1.0, config.validation_cells / count)
    questions = []
    for frame in frame_cells(store, frames):
        kept = [c for c in frame.cells if generator("validation", c["cell"]).random() < share]
        questions += truth_questions(replace(frame, cells=kept), validation_kinds(config.prompt), [0], radius)
    return questions


def _result(run: str, config: FinetuneConfig, zero: list[Score], tuned: list[Score], best_step: int) -> FinetuneResult:
    before, after = [score.iou for score in zero], [score.iou for score in tuned]
    change = paired_change(before, after, [score.question.cell["frame"] for score in zero])
    moved = [b - a for a, b in zip(before, after, strict=True)]
    return FinetuneResult(
        run=run,
        prompt=config.prompt,
        zero_shot=mean_score(zero),
        tuned=mean_score(tuned),
        by_kind=summarise(tuned),
        best_step=best_step,
        better=sum(value > 0.01 for value in moved) / len(moved),
        worse=sum(value < -0.01 for value in moved) / len(moved),
        mean_change=change.mean,
        low=change.low,
        high=change.high,
        verdict=change.word,
        frames=len({score.question.cell["frame"] for score in zero}),
        adapt=config.adapt,
    )
