"""Tune the mask decoder on stored embeddings; the prompt encoder stays frozen.

The image encoder is never loaded, but where its last blocks adapt, too: then those run on stored tokens (``cut``).

The zero-shot score on the validation block is taken first, then after every epoch; the best decoder by validation is
what a run keeps. A run that was interrupted goes on where it was, with the same next batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.catalog import index as catalog
from hela_store.embedding.encoders import store_of
from hela_store.errors import RunError
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.leaks import block_ranges, check_twins, check_untouched
from hela_store.evaluation.questions import Question, Score, answer, truth_questions
from hela_store.evaluation.scores import PromptScore, mean_score, summarise
from hela_store.prompts.training import validation_kinds
from hela_store.runs import tensorboard as scalars
from hela_store.runs.default import paired_change
from hela_store.runs.folder import RunFolder, load_run, new_run, take_up
from hela_store.sam.adapters import set_learned
from hela_store.sam.encoder import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store

from .config import ENCODER, FinetuneConfig
from .data import TrainingSteps, training_variants
from .learner import Learner, new_learner, save_learner
from .loop import Tuning, new_tuning, train
from .trainer import STATE


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
    return store if config.adapt is None or config.adapt.cut is None else store.with_encoder(cut=config.adapt.cut)


def resolved(store: Store, config: FinetuneConfig) -> FinetuneConfig:
    """Return the configuration with what the store decides: window, variants, and the whole id of ``init``."""
    window = config.prompts.window or DEFAULT_WINDOW[store.recipe.encoder.architecture]
    variants = training_variants(source_of(store, config), config.data.variants)
    config = config.with_choices(window=window, variants=variants)
    if config.init is None:
        return config
    run = load_run(store.path, config.init, "finetune")
    if store_of(store, run).key != store.key:
        raise RunError(f"run {run.id} adapted the encoder; to begin with it, set encoder.adapter in store.toml")
    return replace(config, init=run.id)


def _window(config: FinetuneConfig) -> int:
    assert config.prompts.window is not None
    return config.prompts.window


def _steps(store: Store, config: FinetuneConfig, state: Tuning) -> TrainingSteps:
    return TrainingSteps(
        store,
        config.prompt,
        cells=config.prompts.cells,
        seed=config.seed,
        first=state.step * config.optimiser.accumulate,
        count=(config.optimiser.steps - state.step) * config.optimiser.accumulate,
        variants=config.data.variants or 0,
    )


def run_config(store: Store, config: FinetuneConfig) -> dict[str, Any]:
    """Return what a run's ``config.json`` says of its configuration; equal ones are the same run."""
    about = config.flat() | {"encoder": source_of(store, config).key, "checkpoint": config.init, "split": "train"}
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
    return config.prompt if config.adapt is None else f"{config.prompt} {config.adapt.part}"


def validation_questions(store: Store, config: FinetuneConfig) -> list[Question]:
    """Return the validation prompts of a run: seed 0, at most ``validation_cells``, spread evenly over the block."""
    frames, radius = labelled_frames(store, "val"), median_training_radius(store)
    count = sum(len(part.cells) for part in frame_cells(store, frames))
    share = min(1.0, config.validation.cells / count)
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
        adapt=None if config.adapt is None else config.adapt.part,
    )
