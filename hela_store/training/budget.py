"""Fine-tuning on a budget of labelled cells: what may be read, and how the step is chosen without a validation block.

A budget names cells of the training block. Through :class:`~hela_store.store.labelled.Labelled` all other cells have
no label, so neither losses nor prompts, masks merged with a neighbour, negative clicks or jitter can depend on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.files import digest, write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.errors import RecipeError
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.leaks import block_ranges
from hela_store.evaluation.questions import Question, Score, answer, truth_questions
from hela_store.evaluation.reads import data_digest
from hela_store.evaluation.scores import PromptScore, mean_score
from hela_store.evaluation.tracks import nuclei
from hela_store.prompts.error_model import GENERIC, ErrorModel
from hela_store.prompts.kinds import kinds_trained
from hela_store.store.labelled import Labelled
from hela_store.store.store import Store

from .config import BudgetConfig, FinetuneConfig
from .data import TrainingSteps, training_views
from .learner import Learner
from .trainer import Plan, Trainer
from .tuning import TuningTask, new_tuning, rate, view_groups

CELLS_FILE = "cells.json"
"""File of a run that lists the cells of its budget; the run's configuration has their digest."""
FOLDS = 3
VALIDATIONS = 6
"""Validations of a training on a budget, whose epochs may be a few steps long."""


def labelled(store: Store, budget: BudgetConfig) -> Labelled:
    """Return the store in which only the cells of a budget are labelled.

    Raises
    ------
    RecipeError
        A cell is unknown, of another block than train, or no embedded view holds it whole.
    """
    asked = pa.array(budget.cells, pa.string())
    cells, blocks = store.cells_table(), store.blocks()
    rows = cells.filter(pc.is_in(cells["cell"], value_set=asked)).select(["cell", "frame"]).to_pylist()
    if missing := sorted(set(budget.cells) - {row["cell"] for row in rows}):
        raise RecipeError(
            f"cell {missing[0]!r} of train_cells or held_cells is not in {store.path}; see the cells table"
        )
    if other := [(row["cell"], blocks[row["frame"]]) for row in rows if blocks[row["frame"]] != "train"]:
        cell, block = other[0]
        raise RecipeError(
            f"cell {cell} is in a {block} frame, and {len(other)} of {len(rows)} cells are not in train; "
            "name cells of training frames only"
        )
    known = Labelled.of(store, budget.cells)
    whole = {cell.cell for view in training_views(known) for cell in view.cells}
    if cut := sorted(set(budget.cells) - whole):
        raise RecipeError(f"no embedded view holds cell {cut[0]} whole, nor {len(cut) - 1} others; leave these out")
    return known


def budget_settings(store: Store, config: FinetuneConfig) -> dict[str, Any]:
    """Return what a run keeps of its budget in place of the lists of cells, and which frames it read."""
    budget = config.budget
    return {
        "budget": len(budget.cells),
        "pick": budget.pick,
        "budget_cells": digest("budget", *budget.train, "held", *budget.held)[:16],
        "held": len(budget.held),
        **({"folds": "of nuclei"} if budget.is_crossed else {}),  # those of earlier versions were of cells
        "frames": block_ranges(store, ("train",)),
        "data": data_digest(store, ("train",)),
    }


def save_budget(folder: Path, budget: BudgetConfig) -> None:
    """Write the cells of a budget into the folder of a run, if there are any."""
    if budget.train:
        lists = {"train": budget.train, "held": budget.held}
        write_atomic(folder / CELLS_FILE, (json.dumps(lists, indent=0) + "\n").encode())


def budget_questions(store: Labelled, config: FinetuneConfig) -> list[Question]:
    """Return the prompts that choose the step: of the held cells, or of all cells of a cross-validation."""
    budget, radius = config.budget, median_training_radius(store)
    wanted = frozenset(budget.train if budget.is_crossed else budget.held)
    kinds, questions = kinds_trained(config.prompt), []
    for frame in frame_cells(store, labelled_frames(store, "train")):
        kept = [cell for cell in frame.cells if cell.cell in wanted]
        questions += truth_questions(replace(frame, cells=kept), kinds, [0], radius)
    return questions


def validate_every(config: FinetuneConfig, steps_per_epoch: int) -> int:
    """Return the number of steps between two validations."""
    steps = config.optimiser.steps
    usual = math.ceil(steps / VALIDATIONS) if config.budget.train else min(steps_per_epoch, math.ceil(steps / 3))
    return config.validation.every or usual


def training_steps(
    store: Store,
    config: FinetuneConfig,
    *,
    first: int = 0,
    without: Sequence[str] = (),
    errors: ErrorModel = GENERIC,
) -> TrainingSteps:
    """Return the batches of a fine-tuning from step ``first`` on; of a budget those of its cells alone.

    Parameters
    ----------
    store : Store
    config : resolved
    first : optimiser step to go on from
    without : cells of the budget that give no loss: those of the fold that judges
    errors : how mask prompts differ from the truth
    """
    accumulate, how = config.optimiser.accumulate, {"cells": config.prompts.cells, "seed": config.seed}
    steps = TrainingSteps(
        store,
        config.prompt,
        **how,
        first=first * accumulate,
        count=(config.optimiser.steps - first) * accumulate,
        variants=config.data.variants or 0,
    )
    steps.errors = errors
    return steps.only(set(config.budget.train) - set(without)) if config.budget.train else steps


def folds(cells: Sequence[str], nucleus: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Split cells into at most :data:`FOLDS` parts of about equal size, drawn by their ids.

    All cells of a nucleus are in one part, see :func:`hela_store.evaluation.tracks.nuclei`. Where all are of one
    nucleus, its cells are parted.
    """
    groups = by_nucleus(cells, nucleus)
    parts: list[list[str]] = [[] for _ in range(min(FOLDS, len(groups)))]
    for _, group in sorted((generator("fold", group[0]).random(), group) for group in groups):
        min(parts, key=len).extend(group)
    return [tuple(part) for part in parts]


def by_nucleus(cells: Sequence[str], nucleus: Mapping[str, str]) -> list[list[str]]:
    """Return cells in groups of one nucleus each; one by one where all are of the same."""
    groups: dict[str, list[str]] = {}
    for cell in sorted(cells):
        groups.setdefault(nucleus[cell], []).append(cell)
    return list(groups.values()) if len(groups) > 1 else [[cell] for cell in sorted(cells)]


@dataclass(kw_only=True)
class Crossed:
    """Scores of a cross-validation over cells, by step: each cell is judged by a decoder that did not learn from it.

    Attributes
    ----------
    questions : list of Question
    found : dict of step to dict of the place of a question to its score
    """

    questions: list[Question]
    found: dict[int, dict[int, Score]] = field(default_factory=dict)

    def add(self, step: int, places: Sequence[int], scores: Sequence[Score]) -> None:
        """Add the scores of one fold after a step."""
        self.found.setdefault(step, {}).update(zip(places, scores, strict=True))

    def scores(self, step: int) -> list[Score]:
        """Return the scores after a step, in the order of the questions."""
        return [self.found[step][place] for place in range(len(self.questions))]

    def mean(self, step: int) -> PromptScore:
        """Return the mean of the scores after a step."""
        return mean_score(self.scores(step))

    @property
    def curve(self) -> dict[int, float]:
        """Mean IoU by step."""
        return {step: self.mean(step).mean_iou for step in sorted(self.found)}

    @property
    def step(self) -> int:
        """The step with the highest mean IoU, the earliest one of several."""
        curve = self.curve
        return max(curve, key=curve.__getitem__)


def cross_validate(
    store: Labelled,
    config: FinetuneConfig,
    new: Callable[[], Learner],
    questions: list[Question],
    window: int,
    progress: Progress = silent,
) -> Crossed:
    """Train once for each fold of the cells and score the cells of that fold after every few steps.

    Parameters
    ----------
    store : with the labels of the budget
    config : resolved; its schedule is that of the training on all cells
    new : makes what learns, as it is before the first step
    questions : of all cells
    window : positions along each side that a prompt reads
    progress : shown fold by fold
    """
    crossed, parts = Crossed(questions=questions), folds(config.budget.train, nuclei(store, sparse=True))
    for number, fold in enumerate(parts, start=1):
        mine = [place for place, question in enumerate(questions) if question.cell.cell in fold]
        asked = [questions[place] for place in mine]
        state = new_tuning(new(), config)

        def judged(learner: Learner, mine: list[int] = mine, asked: list[Question] = asked) -> list[Score]:
            return answer(store, learner.decoder, asked, window, learner.embed)

        crossed.add(0, mine, judged(state.network))
        steps = training_steps(store, config, without=fold)
        every = validate_every(config, steps.steps_per_epoch)

        def score(learner: Learner, state: Any = state, mine: list[int] = mine, judged: Any = judged) -> PromptScore:
            found = judged(learner)
            crossed.add(state.step, mine, found)
            return mean_score(found)

        plan = Plan(
            what=f"fold {number} of {len(parts)}",
            steps=config.optimiser.steps,
            rate=partial(rate, config),
            clip=1.0,
            evaluate_every=every,
        )
        trainer = Trainer(state=state, plan=plan, task=TuningTask(config=config, score=score), folder=None)
        trainer.run(view_groups(steps, config, len(trainer.left), state.network.device), progress)
    return crossed
