"""Fine-tune the decoder on what was taught; the new one replaces the one before only where it is better.

Which cells judge was dealt before anything is learned (:mod:`hela_store.teaching.deal`). A second part of the cells
chooses the step, so that what chooses does not judge.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hela_store.errors import RunError
from hela_store.evaluation.checkpoint import ZERO_SHOT, Checkpoint, resolve_checkpoint
from hela_store.evaluation.frames import frame_cells, frame_tiles, labelled_frames, median_training_radius
from hela_store.evaluation.questions import Question, Score, answer, truth_questions
from hela_store.evaluation.reads import labels_read
from hela_store.evaluation.tracks import cell_tracks
from hela_store.images.geometry import holds_whole
from hela_store.metrics.intervals import Units
from hela_store.prompts.kinds import kinds_trained
from hela_store.recipe.recipe import Recipe
from hela_store.runs.default import default_run
from hela_store.runs.finished import find_finished, readable_runs
from hela_store.runs.folder import RunInfo, load_run, new_run
from hela_store.sam.devices import pick_device
from hela_store.store.labelled import Labelled
from hela_store.store.records import CellRecord
from hela_store.store.store import Store
from hela_store.training.budget import CELLS_FILE, VALIDATIONS
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.training.guard import change as paired
from hela_store.training.pace import seconds_per_step

from .config import TeachConfig
from .curve import ahead_of, curve_of, finite
from .deal import Dealt

KIND = "teach"
"""Kind of the runs that say how a fine-tuning of a session went."""
KINDS = ("box", "point")
"""Prompts that judge: those that the page has."""
LEAST = 4
"""Cells that train, at least."""
WARMUP = 3
"""One step of so many warms up."""
MARGIN = 0.8
"""Share of the time left that is planned for: what was measured may take longer a moment later."""
DealtCells = Mapping[tuple[str, int], Dealt]
MOST_DRAWN = 8
"""Rounds of the learning curve, whose decoders every round scores again."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Cells that were taught, by what they are for.

    Attributes
    ----------
    train, choose, judge : ids of cells
    left : how many others there are, which no view holds whole
    """

    train: tuple[str, ...]
    choose: tuple[str, ...]
    judge: tuple[str, ...]
    left: int

    @property
    def lack(self) -> str:
        """Say which cells are missing before the decoder can be fine-tuned; empty where none is."""
        if len(self.train) >= LEAST and self.choose and self.judge:
            return ""
        return (
            f"{len(self.train)} cells to train on, {len(self.choose)} to choose the step and {len(self.judge)} to "
            f"judge; expected {LEAST}, 1 and 1"
        )


@dataclass(frozen=True, kw_only=True)
class Round:
    """Describe how one fine-tuning went.

    Attributes
    ----------
    run : id of the run that says this
    number : 1 for the first one of the store
    taught : cells that were taught when it began
    trained, judged : cells that trained, and that judged
    before, after : decoders, ids of fine-tuning runs or ``"zero-shot"``
    kept : whether ``after`` answers from then on
    before_iou, after_iou : mean IoU of both on the cells that judge, bounding boxes and clicks together
    mean_change, low, high : paired, with its 95 % interval; None where it cannot be told
    verdict : ``"better"``, ``"worse"``, ``"equivalent"`` or ``"undecided"``; ``""`` where the frames are too few
    curve : (cells, IoU, low, high) of zero-shot and of the decoder that answered after each round, on the same cells
    ahead : (cells more, IoU, low, high, gain, low, high) that are expected; empty while too few rounds can be fitted
    seconds : how long it took
    steps, most_steps : training steps that were made, and that would have been made without a limit of time
    limit : seconds that it was to take at most
    """

    run: str = ""
    number: int
    taught: int
    trained: int
    judged: int
    before: str
    after: str
    kept: bool
    before_iou: float
    after_iou: float
    mean_change: float
    low: float | None
    high: float | None
    verdict: str
    curve: list[list[float | None]]
    ahead: list[list[float]]
    seconds: float
    steps: int = 0
    most_steps: int = 0
    limit: float = 0.0

    @classmethod
    def of(cls, run: RunInfo) -> Round:
        """Return the round that a published run has in its log; RunError where it holds something else."""
        try:
            return cls(**run.result() | {"run": run.id})
        except TypeError as error:
            raise RunError(
                f"the log of run {run.id} is not one of a round of teach ({error}); move the run away"
            ) from None

    @property
    def decoder(self) -> str | None:
        """The decoder that answers after it; None for the one that came with the encoder."""
        name = self.after if self.kept else self.before
        return None if name == ZERO_SHOT else name

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            interval = "too few cells for an interval"
        else:
            interval = f"95 % interval {self.low:+.3f} to {self.high:+.3f}"
        verdict = f"{self.verdict} for this training" if self.verdict else "too few frames for a verdict"
        end = "The new decoder answers now." if self.kept else "The decoder before stays; the new one is dropped."
        return (
            f"Round {self.number}: trained on {self.trained} cells{self._pace()}. IoU on {self.judged} cells set aside "
            f"{self.before_iou:.3f}, now {self.after_iou:.3f} ({self.mean_change:+.3f}, {interval}: {verdict}). "
            f"{end}"
        )

    def _pace(self) -> str:
        """Say how many steps were made; empty for rounds of earlier versions, which did not count them."""
        if not self.steps:
            return ""
        fewer = f" of {self.most_steps}" if self.steps < self.most_steps else ""
        why = f", as many as {self.limit:.0f} s allow" if fewer else ""
        return f", {self.steps}{fewer} steps in {self.seconds:.0f} s{why}"


def last_round(store: Store) -> Round | None:
    """Return the latest round of a store for its encoder; None where there is none."""
    run = find_finished(store.path, KIND, lambda info: info.encoder == store.key and bool(info.result()))
    return None if run is None else Round.of(run)


def shares(store: Store, dealt: DealtCells) -> Shares:
    """Return the cells by what they are for.

    Parameters
    ----------
    store : at the version of the labels that is meant
    dealt : what the taught cells of the training block are for, by (frame, label)
    """
    parts: dict[str, list[str]] = {"train": [], "choose": [], "judge": []}
    left = 0
    tiles = frame_tiles(store, [frame for frame in store.frame_records() if any(frame == f for f, _ in dealt)])
    for cell in CellRecord.of(store.cells_table()):
        if (cell.frame, cell.label) not in dealt:
            continue
        if any(holds_whole(cell.box, tile.rect) for tile in tiles.get(cell.frame, [])):
            parts[dealt[cell.frame, cell.label].part].append(cell.cell)
        else:
            left += 1
    return Shares(left=left, **{name: tuple(cells) for name, cells in parts.items()})


def answering(store: Store) -> str | None:
    """Return the run whose decoder answers: that of the latest round, else the default run; None for zero-shot."""
    last = last_round(store)
    if last is not None:
        return last.decoder
    run = default_run(store.path, store.key)
    return None if run is None else run.id


def learned_cells(store: Store) -> set[str]:
    """Return the ids of cells that trained, or chose the step, in an earlier round: they cannot judge any more."""
    found: set[str] = set()
    for one in rounds(store):
        with contextlib.suppress(RunError, OSError, ValueError):  # the run of a decoder that was dropped may be deleted
            lists = json.loads((load_run(store.path, one.after).path / CELLS_FILE).read_text())
            found.update(*lists.values())
    return found


def work(path: Path, recipe: Recipe, dealt: DealtCells, config: TeachConfig, asked: float) -> Round:
    """Do one round, as :func:`retune`, on a store that another process has open and ``asked`` for it at that time."""
    return retune(Store(path, recipe), dealt, config, max(0.0, time.time() - asked))


def retune(store: Store, dealt: DealtCells, config: TeachConfig, spent: float = 0.0) -> Round:
    """Fine-tune from the decoder that answers now, judge both, and publish a run that says how it went.

    The number of steps follows from how long a step and a score take here and now, so that the round ends within
    ``config.seconds``; their schedule is a whole one. The run of the fine-tuning depends on that number, and on
    nothing else that was measured.

    Parameters
    ----------
    store : Store
    dealt : what the cells that people made or changed are for, by (frame, label)
    config : TeachConfig
    spent : seconds that passed since the round was asked for

    Raises
    ------
    RunError, RecipeError, SplitError, StoreError
        As :func:`hela_store.training.finetune.finetune`.
    """
    began, before = time.monotonic() - spent, last_round(store)
    parts = shares(store, dealt)
    init = answering(store)
    known = Labelled.of(store, parts.judge)
    questions = judging_questions(known)
    units = _units(known, questions, dealt)
    ask = _Asker(store=known, questions=questions, device=config.device)
    old = ask(resolve_checkpoint(store, init))
    wanted = _fitting(store, round_config(parts, init, config), ask, config.seconds - (time.monotonic() - began))
    found = finetune(store, wanted)
    new = ask(resolve_checkpoint(store, found.run))
    change = paired(_ious(old), _ious(new), units)
    kept = found.best_step > 0 and change.helped
    steps = _steps(store, ask, (len(parts.train), new if kept else old))
    done = Round(
        number=1 if before is None else before.number + 1,
        taught=len(dealt),
        trained=len(parts.train),
        judged=len(parts.judge),
        before=init or ZERO_SHOT,
        after=found.run,
        kept=kept,
        before_iou=float(_ious(old).mean()),
        after_iou=float(_ious(new).mean()),
        mean_change=change.mean_change,
        low=finite(change.low),
        high=finite(change.high),
        verdict=change.verdict,
        curve=curve_of([(cells, _ious(scores)) for cells, scores in steps], units),
        ahead=ahead_of([(cells, _ious(scores)) for cells, scores in steps], units),
        seconds=time.monotonic() - began,
        steps=wanted.optimiser.steps,
        most_steps=config.steps,
        limit=config.seconds,
    )
    return _publish(store, done, config)


def round_config(parts: Shares, init: str | None, config: TeachConfig) -> FinetuneConfig:
    """Return the fine-tuning of a round that has all the time it needs, for the prompts that the page has."""
    return FinetuneConfig.of(
        prompt="box-or-point",
        init=init,
        steps=config.steps,
        warmup=config.steps // WARMUP,
        workers=0,
        device=config.device,
        train_cells=parts.train,
        held_cells=parts.choose,
        pick="taught",
    )


def _fitting(store: Store, wanted: FinetuneConfig, ask: _Asker, left: float) -> FinetuneConfig:
    """Return the fine-tuning with as many steps as fit into the seconds that are left, validations at even distances.

    At least one step is made for each validation: on a machine on which that takes longer, the round does, too.
    """
    pace = _Pace(
        step=seconds_per_step(store, wanted),
        answer=ask.seconds_per_answer,
        # zero-shot, before the first step, after every few and at the end, then the scores of the round
        answers=(VALIDATIONS + 3) * len(wanted.budget.held) * len(kinds_trained(wanted.prompt))
        + (ask.missing(store) + 1) * len(ask.questions),
    )
    steps = pace.steps(left, wanted.optimiser.steps)
    return wanted.with_choices(steps=steps, warmup=steps // WARMUP)


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Seconds that a step and an answer take, and how many answers a round needs."""

    step: float
    answer: float
    answers: int

    def steps(self, left: float, most: int) -> int:
        """Return how many steps fit into the seconds that are left, at most ``most``."""
        fits = int((MARGIN * left - self.answer * self.answers) / self.step)
        return min(most, max(VALIDATIONS, fits - fits % VALIDATIONS))


def judging_questions(store: Store) -> list[Question]:
    """Return a bounding box and a click for every labelled cell of the training block, drawn from its label."""
    radius, questions = median_training_radius(store), []
    for frame in frame_cells(store, labelled_frames(store, "train")):
        questions += truth_questions(frame, KINDS, [0], radius)
    return questions


@dataclass(frozen=True, kw_only=True)
class _Asker:
    """Scores decoders on the same questions."""

    store: Store
    questions: list[Question]
    device: str
    scores: dict[str | None, list[Score]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, checkpoint: Checkpoint) -> list[Score]:
        """Return the scores of a decoder; it is asked once."""
        if checkpoint.id not in self.scores:
            began = time.monotonic()
            decoder = checkpoint.load_decoder(pick_device(self.device))
            self.scores[checkpoint.id] = answer(self.store, decoder, self.questions, checkpoint.window)
            self.seconds.append(time.monotonic() - began)
        return self.scores[checkpoint.id]

    @property
    def seconds_per_answer(self) -> float:
        """Mean over the decoders that were asked."""
        return float(np.mean(self.seconds)) / len(self.questions)

    def missing(self, store: Store) -> int:
        """Return how many of the decoders of the curve were not asked yet."""
        return len({None, *(run.decoder for run in _drawn(store))} - self.scores.keys())


def _steps(store: Store, ask: _Asker, last: tuple[int, list[Score]]) -> list[tuple[int, list[Score]]]:
    """Score zero-shot and the decoder that answered after every round, each with the cells that were learned from."""
    steps = [(0, ask(resolve_checkpoint(store, None)))]
    steps += [(run.trained, ask(resolve_checkpoint(store, run.decoder))) for run in _drawn(store)]
    return [*steps, last]


def _drawn(store: Store) -> list[Round]:
    """Return the rounds of the curve: all, or so many of them, evenly spread, that a round's time is bounded."""
    found = rounds(store)
    places = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_DRAWN)).round().astype(int))
    return [found[place] for place in places]


def rounds(store: Store) -> list[Round]:
    """Return the rounds of a store for its encoder in their order."""
    found = [Round.of(run) for run in readable_runs(store.path, KIND) if run.encoder == store.key and run.result()]
    return sorted(found, key=lambda one: one.number)


def _publish(store: Store, done: Round, config: TeachConfig) -> Round:
    about = asdict(config) | {"encoder": store.key, "checkpoint": done.after, "split": "train"} | labels_read(store)
    folder = new_run(store.path, KIND, about, parent=done.after, label=f"round {done.number}")
    with folder.tidied():
        result = {name: value for name, value in asdict(done).items() if name != "run"}
        folder.log(result=result)
        folder.publish()
    return replace(done, run=folder.id)


def _units(store: Store, questions: Sequence[Question], dealt: DealtCells) -> Units:
    """Return what intervals resample: the tracks that were dealt, and frames; in a single frame the tracks alone."""
    frames = {question.cell.frame for question in questions}
    tracks = cell_tracks(store, sorted(frames))
    if not tracks.is_stills:
        cells = (question.cell for question in questions)
        tracks = replace(tracks, of={cell.cell: dealt[cell.frame, cell.label].track for cell in cells})
    units = tracks.units([question.cell.cell for question in questions])
    return units if len(frames) > 1 else replace(units, frame=None)


def _ious(scores: Sequence[Score]) -> npt.NDArray[np.float64]:
    return np.array([score.iou for score in scores], np.float64)
