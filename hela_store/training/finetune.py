"""Fine-tune the mask decoder on stored embeddings; the prompt encoder stays frozen.

The image encoder is loaded only where its last blocks are adapted. These then run on stored tokens (``cut``).

The zero-shot score on the validation set comes first, then one score after every epoch. A run keeps the decoder with
the best score on one half of the validation tracks; the other half judges it (:mod:`hela_store.training.guard`). An
interrupted run resumes where it stopped, with the same next batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.embedding.encoders import store_of
from hela_store.errors import RunError
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.leaks import check_twins, check_untouched
from hela_store.evaluation.questions import Question, Score, answer, truth_questions
from hela_store.evaluation.scores import PromptScore, mean_score, summarise
from hela_store.prompts.error_model import GENERIC, ErrorModel
from hela_store.prompts.kinds import kinds_trained
from hela_store.runs import tensorboard as scalars
from hela_store.runs.default import helped
from hela_store.runs.finished import claim_run, find_finished
from hela_store.runs.folder import RunFolder, RunInfo, load_run
from hela_store.sam.adapters import set_learned
from hela_store.sam.devices import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.labelled import Labelled
from hela_store.store.store import Store

from .budget import (
    Crossed,
    budget_questions,
    budget_settings,
    cross_validate,
    labelled,
    save_budget,
    training_steps,
    validate_every,
)
from .config import ENCODER, FinetuneConfig
from .data import training_variants
from .errors_like import errors_like
from .guard import Change, Halves
from .learner import Learner, new_learner, save_learner
from .settings import deciding, same_training, training_config
from .trainer import STATE, Plan, Trainer, Training, open_run
from .tuning import TuningTask, new_tuning, rate, view_groups

KIND = "finetune"
LOG_STEPS = 10
"""Steps between two lines of the log without a validation."""


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """A tuned decoder and how it compares on the validation block.

    Attributes
    ----------
    run : id
    prompt : kind it was tuned for
    zero_shot, tuned : scores on the same cells and prompts, those that did not choose the step; both hold the
        image-free row
    by_kind : tuned scores by prompt kind
    best_step : step of the weights that were kept; 0 if no step was better than none
    better, worse : share of cells whose IoU rose or fell by more than 0.01
    mean_change, low, high : mean paired change of IoU and its 95 % interval over tracks and frames
    frames : how many frames were judged
    verdict : ``"better"``, ``"worse"``, ``"equivalent"`` or ``"undecided"``, of this decoder (one training seed);
        ``""`` where the frames are too few
    kinds : the change by prompt kind
    units : how many tracks judged, how many chose the step, and how tracks were found
    errors : where the errors of its mask prompts are from, in words; empty where these are the generic ones
    blind : whether it is image-blind, a floor for other decoders; zero-shot is, too, then
    adapt : what was adapted, None for the mask decoder itself
    budget : labelled cells, where these were not all; the scores are then of these cells, in the training block
    reused : whether the run was finished before it was asked for
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
    kinds: dict[str, Change]
    units: str
    adapt: str | None = None
    blind: bool = False
    budget: int = 0
    errors: str = ""
    reused: bool = False

    @classmethod
    def of(cls, run: RunInfo) -> FinetuneResult:
        """Return the result that a published run has in its log."""
        logged = run.result()
        found: dict[str, Any] = {name: PromptScore.of(logged[name]) for name in ("zero_shot", "tuned")}
        kinds = {kind: PromptScore.of(score) for kind, score in logged["by_kind"].items()}
        found |= _numbers({name: logged[name] for name in ("mean_change", "low", "high")})
        if "accepted" not in logged:  # earlier versions gave a verdict on any number of frames
            wordless = {kind: change | {"verdict": ""} for kind, change in logged["kinds"].items()}
            logged = logged | {"verdict": "", "kinds": wordless}
        changes = {kind: Change(**_numbers(change)) for kind, change in logged["kinds"].items()}
        names = ("prompt", "best_step", "better", "worse", "verdict", "frames", "units", "adapt")
        return cls(
            run=run.id,
            by_kind=kinds,
            kinds=changes,
            reused=True,
            blind=logged.get("blind", False),
            budget=logged.get("budget", 0),
            errors=logged.get("errors", ""),
            **found,
            **{name: logged[name] for name in names},
        )

    @property
    def adapts_encoder(self) -> bool:
        """Whether its decoder reads embeddings of an encoder of its own."""
        return self.adapt in ENCODER

    @property
    def accepted(self) -> bool:
        """Whether it may become the default run: a step was better for the half that chooses, and the rest rose, too.

        This is a decision, made for any number of frames, and no verdict.
        """
        return self.best_step > 0 and helped(vars(self))

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store finetune --json`` prints."""
        scores = {"zero_shot": self.zero_shot.to_json(), "tuned": self.tuned.to_json()}
        kinds = {kind: score.to_json() for kind, score in self.by_kind.items()}
        return (
            asdict(self)
            | scores
            | {"by_kind": kinds, "accepted": self.accepted, "split": "train" if self.budget else "val"}
        )


def _numbers(logged: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a log says with NaN again where JSON has null: the interval of a single track or frame."""
    return {name: math.nan if value is None else value for name, value in logged.items()}


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

    A run depends on its configuration alone. So one that is finished is returned as it is, and where another process
    is making it, that is waited for.

    Parameters
    ----------
    store : with the views of its train and val blocks embedded
    config : how; the defaults where None
    resume : take the finished run of the very same configuration, or go on with an interrupted one, if there is one
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
    config = config or FinetuneConfig()
    how: dict[str, Any] = {"cache_dir": cache_dir, "tensorboard": tensorboard, "progress": progress}
    if not resume:
        return _finetune(_checked(store, config), resume=False, **how)
    result = shared(store, config, **how)
    assert result is not None  # it was waited for
    return result


def shared(
    store: Store,
    config: FinetuneConfig,
    *,
    wait: bool = True,
    cache_dir: Path | None = None,
    tensorboard: Path | None = None,
    progress: Progress = silent,
) -> FinetuneResult | None:
    """Do as :func:`finetune` does; None where another process is at it and we do not ``wait`` for it."""
    job = _checked(store, config)
    wanted = run_config(job)
    with claim_run(store.path, KIND, deciding(wanted), wait=wait, progress=progress) as ours:
        if not ours:
            return None
        if done := _finished(job, wanted):
            return FinetuneResult.of(done)
        return _finetune(job, resume=True, cache_dir=cache_dir, tensorboard=tensorboard, progress=progress)


def finished(store: Store, config: FinetuneConfig) -> RunInfo | None:
    """Return the published run of this configuration, if there is one; a damaged log does not count."""
    job = resolve(store, config)
    return _finished(job, run_config(job))


def _finished(job: Job, wanted: Mapping[str, Any]) -> RunInfo | None:
    def same(run: RunInfo) -> bool:
        return same_training(run.config, wanted) and bool(run.result()) and _kept_its_schedule(run, job.config)

    return find_finished(job.source.path, KIND, same)


def _kept_its_schedule(run: RunInfo, config: FinetuneConfig) -> bool:
    # earlier versions trained at a constant rate without a warm-up, whatever schedule the run was asked for
    logged = [row for row in run.log() if "lr" in row]
    return all(math.isclose(row["lr"], rate(config, row["step"] - 1), rel_tol=1e-6) for row in logged)


def _checked(store: Store, config: FinetuneConfig) -> Job:
    """Resolve a configuration and refuse frames that would leak."""
    check_twins(store)
    job = resolve(store, config)
    if not isinstance(job.source, Labelled):
        check_untouched(store, job.init, labelled_frames(store, "val"), "val")
    return job


def _finetune(
    job: Job, *, resume: bool, cache_dir: Path | None, tensorboard: Path | None, progress: Progress
) -> FinetuneResult:
    config = job.config
    device = pick_device(config.device)

    def learner(init: RunInfo | None) -> Learner:
        new = new_learner(job.source, config, device, init=init, cache_dir=cache_dir, progress=progress)
        return new.eval()

    judge = _Judge(job=job, halves=_halves(job), progress=progress)
    begin = learner(job.init)
    # adapters have no effect before the first step, so these are the scores without any fine-tuning
    zero = judge.scores(begin if job.init is None else learner(None))
    state = new_tuning(begin, config)
    how: dict[str, Any] = {"label": _label(config), "parent": config.init, "resume": resume}
    folder = open_run(job.source.path, KIND, run_config(job), **how)
    with folder.tidied(resumable=True):
        state.resume(folder)
        with nullcontext() if tensorboard is None else scalars.tensorboard(tensorboard / folder.id) as folder.tell:
            judge = _crossed(judge, lambda: learner(job.init), progress)
            _tune(judge, state, folder, progress)
            return _publish(judge, state, folder, zero)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A fine-tuning with everything that the store decides.

    Attributes
    ----------
    config : with window, variants and the whole id of ``init``
    source : the store as it is read: with the tokens after the cut, where the encoder is adapted, and without the
        labels of cells that a budget leaves out
    init : the run that ``config.init`` names; None to begin without fine-tuning
    errors : how mask prompts differ from the truth
    origin : where ``errors`` are from, in words; empty where nothing was asked for
    """

    config: FinetuneConfig
    source: Store
    init: RunInfo | None
    errors: ErrorModel = GENERIC
    origin: str = ""

    @property
    def window(self) -> int:
        """Embedding positions along each side that a prompt reads."""
        assert self.config.prompts.window is not None
        return self.config.prompts.window


def resolve(store: Store, config: FinetuneConfig) -> Job:
    """Fill in what the store decides: window, variants, and the run to begin with.

    Raises
    ------
    RecipeError
        More variants are asked for than are stored.
    RunError
        There is no such run to begin with, or it belongs to another encoder.
    """
    source = source_of(store, config)
    window = config.prompts.window or DEFAULT_WINDOW[store.recipe.encoder.architecture]
    config = config.with_choices(window=window, variants=training_variants(source, config.data.variants))
    errors, origin = GENERIC, ""
    if config.errors_like is not None:
        errors, origin = errors_like(source, Path(config.errors_like))
    if config.init is None:
        return Job(config=config, source=source, init=None, errors=errors, origin=origin)
    run = load_run(store.path, config.init, KIND)
    if store_of(store, run).key != store.key:
        raise RunError(f"run {run.id} adapted the encoder; to begin with it, set encoder.adapter in store.toml")
    return Job(config=replace(config, init=run.id), source=source, init=run, errors=errors, origin=origin)


def source_of(store: Store, config: FinetuneConfig) -> Store:
    """Return the store as it is read: with the tokens after the cut, and with the labels of a budget only.

    Raises
    ------
    RecipeError
        A cell of the budget cannot train.
    """
    cut = None if config.adapt is None else config.adapt.cut
    source = store if cut is None else store.with_encoder(cut=cut)
    return labelled(source, config.budget) if config.budget.train else source


def run_config(job: Job) -> dict[str, Any]:
    """Return the configuration for a run's ``config.json``."""
    about: dict[str, Any] = {"encoder": job.source.key, "checkpoint": job.config.init}
    if job.config.errors_like is not None:
        about |= {"error_model": asdict(job.errors)}
    if not job.config.budget.train:
        return training_config(job.source, job.config.flat() | about)
    flat = {name: value for name, value in job.config.flat().items() if name not in ("train_cells", "held_cells")}
    return training_config(job.source, flat | about) | budget_settings(job.source, job.config)


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Scores learners on the validation prompts of a job."""

    job: Job
    halves: Halves
    crossed: Crossed | None = None
    progress: Progress = silent

    def scores(self, learner: Learner) -> list[Score]:
        """Return the scores that judge: of a cross-validation those of decoders that did not learn from the cell."""
        return self.crossed.scores(self.crossed.step) if self.crossed else self._answer(learner, self.halves.judging)

    def first(self, learner: Learner) -> PromptScore:
        """Return :meth:`choice` before the first step."""
        return self.crossed.mean(0) if self.crossed else self.choice(learner)

    def choice(self, learner: Learner) -> PromptScore:
        """Return the mean of the scores that choose the step."""
        if self.crossed:
            return self.crossed.mean(self.crossed.step)
        return mean_score(self._answer(learner, self.halves.choosing))

    def _answer(self, learner: Learner, questions: list[Question]) -> list[Score]:
        how: dict[str, Any] = {"embed": learner.embed, "progress": self.progress}
        return answer(self.job.source, learner.decoder, questions, self.job.window, **how)


def _halves(job: Job) -> Halves:
    """Return the prompts that choose the step and judge the run."""
    questions, budget = validation_questions(job.source, job.config, job.errors), job.config.budget
    if not budget.train:
        return Halves.of(job.source, questions)
    how = f"{len(budget.train)} cells, cross-validated" if budget.is_crossed else f"{len(budget.held)} held cells"
    return Halves.undivided(job.source, questions, f"{how}, chose the step and judged it")


def _crossed(judge: _Judge, new: Callable[[], Learner], progress: Progress) -> _Judge:
    """Return the judge with the scores of a cross-validation, where the budget asks for one."""
    job = judge.job
    if not (job.config.budget.is_crossed and isinstance(job.source, Labelled)):
        return judge
    found = cross_validate(job.source, job.config, new, judge.halves.judging, job.window, progress)
    return replace(judge, crossed=found)


def _tune(judge: _Judge, state: Training[Learner], folder: RunFolder, progress: Progress) -> None:
    """Train from where the run is to its end."""
    job, config = judge.job, judge.job.config
    if state.step == 0:
        first = judge.first(state.network)
        state.best_score = first.mean_iou
        # a run that has a log can be resumed, so the state comes first
        state.save(folder)
        folder.rewind(-1)
        curve = {} if judge.crossed is None else {"crossed": judge.crossed.curve}
        folder.log(step=0, val=first.to_json(), **curve)
    steps = training_steps(job.source, config, first=state.step, errors=job.errors)
    last = config.optimiser.steps if judge.crossed is None else judge.crossed.step
    plan = Plan(
        what=f"finetune {config.prompt}",
        steps=last,
        rate=partial(rate, config),
        clip=1.0,
        evaluate_every=validate_every(config, steps.steps_per_epoch) if judge.crossed is None else max(last, 1),
        log_every=LOG_STEPS,
        patience=config.validation.patience,
    )
    trainer = Trainer(state=state, plan=plan, task=TuningTask(config=config, score=judge.choice), folder=folder)
    trainer.run(view_groups(steps, config, len(trainer.left), state.network.device), progress)


def _publish(judge: _Judge, state: Training[Learner], folder: RunFolder, zero: list[Score]) -> FinetuneResult:
    """Score the best weights, write them and publish the run."""
    set_learned(state.network, state.best)
    tuned = judge.scores(state.network.eval())
    save_learner(folder.path, judge.job.source, judge.job.config, state.network)
    save_budget(folder.path, judge.job.config.budget)
    result = _result(folder.id, judge, zero, tuned, state.best_step)
    folder.log(step=state.step, seconds=state.seconds, result=result.to_json())
    (folder.path / STATE).unlink(missing_ok=True)
    folder.publish()
    return result


def _label(config: FinetuneConfig) -> str:
    if config.blind:
        return f"{config.prompt} blind"
    if config.errors_like is not None:
        return f"{config.prompt} like {Path(config.errors_like).name}"
    return config.prompt if config.adapt is None else f"{config.prompt} {config.adapt.part}"


def validation_questions(store: Store, config: FinetuneConfig, errors: ErrorModel = GENERIC) -> list[Question]:
    """Return the validation prompts of a run: seed 0, at most ``validation_cells``, spread evenly over the block.

    Mask prompts differ from the truth as ``errors`` says, so that what chooses the step is like what is trained. Those
    of a budget are of its cells, and none of the validation block.
    """
    if isinstance(store, Labelled):
        return budget_questions(store, config)
    frames, radius = labelled_frames(store, "val"), median_training_radius(store)
    count = sum(len(part.cells) for part in frame_cells(store, frames))
    share = min(1.0, config.validation.cells / count)
    questions = []
    for frame in frame_cells(store, frames):
        kept = [c for c in frame.cells if generator("validation", c.cell).random() < share]
        kinds = kinds_trained(config.prompt)
        questions += truth_questions(replace(frame, cells=kept), kinds, [0], radius, errors)
    return questions


def _result(run: str, judge: _Judge, zero: list[Score], tuned: list[Score], best_step: int) -> FinetuneResult:
    config = judge.job.config
    whole, kinds = judge.halves.changes(zero, tuned)
    return FinetuneResult(
        run=run,
        prompt=config.prompt,
        zero_shot=mean_score(zero),
        tuned=mean_score(tuned),
        by_kind=summarise(tuned),
        best_step=best_step,
        better=whole.better,
        worse=whole.worse,
        mean_change=whole.mean_change,
        low=whole.low,
        high=whole.high,
        verdict=whole.verdict,
        frames=len({score.question.cell.frame for score in zero}),
        kinds=kinds,
        units=judge.halves.units,
        adapt=None if config.adapt is None else config.adapt.part,
        blind=config.blind,
        budget=len(config.budget.cells),
        errors=judge.job.origin,
    )
