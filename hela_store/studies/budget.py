"""Say how many cells to annotate: fine-tune on budgets of cells, score all on the same test cells, and fit a curve.

A budget is cells of the training block; nothing else of its labels, nor of the validation block's, is read (see
:mod:`hela_store.training.budget`). Each point is a fine-tuning and a scoring of kind ``"budget"``. What is there is
used again, so the same command resumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.errors import HelaError, RecipeError
from hela_store.evaluation.frames import labelled_frames
from hela_store.evaluation.leaks import check_twins
from hela_store.evaluation.sampled import SampleConfig, score_sample
from hela_store.prompts.kinds import NO_PROMPT
from hela_store.runs.folder import load_run
from hela_store.sam.informed import informed_by
from hela_store.store.store import Store
from hela_store.training.budget import FOLDS, by_nucleus
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import training_variants

from .budget_config import (
    ALL,
    CELLS_A_STEP,
    FINDING,
    LEAST,
    MOST_VIEWS,
    OWN,
    BudgetStudyConfig,
    held_of,
    steps_of,
)
from .budget_found import score_found
from .budget_rows import KIND, ZERO, BudgetTable, budget_table, sentence
from .picks import Picker
from .sweep import Point, SweepRow, run_points, tuned_row


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """Describe what a study of budgets will run.

    Attributes
    ----------
    points : choices, with the settings that all points of its curve share, and configuration of every fine-tuning
    cells, frames : of the training block
    trainings : optimiser runs, those of cross-validations among them
    steps : optimiser steps of all of them
    scored : test cells that every point is scored on
    """

    points: list[Point]
    cells: int
    frames: int
    trainings: int
    steps: int
    scored: int

    def __str__(self) -> str:
        return (
            f"{len(self.points)} fine-tunings ({self.trainings} trainings with those of cross-validations, "
            f"{self.steps:,} steps), each scored on {self.scored} test cells"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        about = {name: getattr(self, name) for name in ("cells", "frames", "trainings", "steps", "scored")}
        return about | {"points": [point for point, _ in self.points]}


@dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """Describe what a study of budgets found.

    Attributes
    ----------
    table : lines, curves and rules
    scored : cells that every point was scored on
    notes : what a reader has to know
    errors : why points are missing
    """

    table: BudgetTable
    scored: int
    notes: list[str]
    errors: list[str]

    @property
    def sentences(self) -> list[str]:
        """One for each curve: how many cells are enough, and what more of them add."""
        return [sentence(curve) for curve in self.table.curves]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store study --budget ... --json`` prints."""
        table = self.table
        found: dict[str, Any] = {"rows": [row.to_json() for row in table.rows], "sentences": self.sentences}
        found |= {"scored": self.scored, "curves": [curve.to_json() for curve in table.curves], "units": table.units}
        found |= {"rules": {name: asdict(rule) for name, rule in table.rules.items()}}
        return found | {"notes": self.notes, "errors": self.errors}


def plan_budgets(store: Store, config: BudgetStudyConfig, progress: Progress = silent) -> BudgetPlan:
    """Say what :func:`study_budgets` will run.

    Raises
    ------
    RecipeError
        A budget is above the cells that are there, or a setting is impossible.
    RunError, SplitError, StoreError
        A pick needs what is not there yet; a block is empty, or not embedded.
    """
    if store.recipe.encoder.adapter or config.tuning.init is not None:
        raise RecipeError(
            "a study of budgets begins from weights that know no label of this store; leave out init, and "
            "encoder.adapter in store.toml"
        )
    check_twins(store)
    sample, frames = sample_of(config), labelled_frames(store, config.split)
    picker = Picker(store, progress)
    cells, most = len(picker.cells), max(config.numbers, default=0)
    if most > cells:
        raise RecipeError(
            f"budget {most} is more than the {cells} training cells that lie whole in a tile; the largest "
            f"budget is {ALL}"
        )
    if cells < LEAST:
        raise RecipeError(f"only {cells} training cells lie whole in a tile, expected {LEAST} or more")
    for variants in config.variants:
        training_variants(store, variants)
    chosen = list(_chosen(picker, config))
    points = [point for picked in chosen for point in _points(picker, config, picked)]
    trainings = [
        (1 + min(FOLDS, point["budget"]) if own.budget.is_crossed else 1, own.optimiser.steps)
        for point, own in points
        if point["method"] != "classical"
    ]
    there = set(frames)
    tested = sum(frame in there for frame in store.cells_table()["frame"].to_pylist())
    return BudgetPlan(
        points=points,
        cells=cells,
        frames=picker.frames(picker.cells),
        trainings=sum(times for times, _ in trainings),
        steps=sum(times * steps for times, steps in trainings),
        scored=min(sample.cells, tested),
    )


def study_budgets(
    store: Store,
    config: BudgetStudyConfig | None = None,
    *,
    plan: BudgetPlan | None = None,
    executor: Executor | None = None,
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> BudgetResult:
    """Fine-tune and score every point that is not there yet, and put all of them together.

    Parameters
    ----------
    store : with the views of its train and test blocks embedded
    config : the defaults where None
    plan : of :func:`plan_budgets`, where it was made before
    executor : where points run side by side; here, one after another, where None
    cache_dir : where a fetched official checkpoint lies; only an encoder that adapts is loaded
    progress : shown point by point

    Raises
    ------
    RecipeError, RunError, SplitError, StoreError
        As :func:`plan_budgets`.
    """
    config = config or BudgetStudyConfig()
    plan, sample = plan or plan_budgets(store, config, progress), sample_of(config)
    zero = score_sample(store, None, sample, kind=KIND, about=_zero(config), progress=progress)
    how = {"cache_dir": cache_dir, "sample": sample}
    rows: dict[int, SweepRow] = {}
    done = run_points(store, plan.points, scored_row, executor, how)
    for number, row in progress(done, total=len(plan.points), what="budgets"):
        rows[number] = row
    ordered = [rows[number] for number in range(len(plan.points))]
    runs = [load_run(store.path, row.run) for row in ordered if row.run and not row.error]
    errors = [f"{_name(row.choices)}: {row.error}" for row in ordered if row.error]
    table = budget_table(store, [zero, *runs])
    return BudgetResult(table=table, scored=plan.scored, notes=_notes(store, config), errors=errors)


def sample_of(config: BudgetStudyConfig) -> SampleConfig:
    """Return how every decoder of a study is scored."""
    return SampleConfig(
        split=config.split,
        prompts=config.prompts,
        prompt_seeds=config.prompt_seeds,
        cells=config.test_cells,
        device=config.tuning.device,
    )


def scored_row(
    store: Store,
    point: dict[str, Any],
    config: FinetuneConfig,
    *,
    wait: bool,
    cache_dir: Path | None,
    sample: SampleConfig,
) -> SweepRow | None:
    """Fine-tune one point and score it; its row names the scoring. None where another process is at it."""
    if point["method"] in FINDING:
        try:
            return SweepRow(choices=point, run=score_found(store, point, config, sample).id)
        except HelaError as error:
            return SweepRow(choices=point, error=str(error))
    row = tuned_row(store, point, config, wait=wait, cache_dir=cache_dir)
    if row is None or row.error:
        return row
    try:
        own = replace(sample, prompts=(config.prompt,))
        run = score_sample(store, row.run, own, kind=KIND, about=point, cache_dir=cache_dir)
    except HelaError as error:
        return replace(row, error=str(error))
    return replace(row, run=run.id)


def _zero(config: BudgetStudyConfig) -> dict[str, Any]:
    about: dict[str, Any] = {"method": ZERO, "pick": "none", "budget": 0, "variants": 0, "seed": None}
    return about | {"tuned_for": None, "frames_opened": 0}


def _chosen(picker: Picker, config: BudgetStudyConfig) -> Iterator[tuple[str, int, list[str]]]:
    """Yield pick, seed and cells of every budget; all cells are the same for every pick."""
    for seed in range(config.seeds):
        for pick in config.picks if config.numbers else ():
            order = picker.order(pick, seed, config.numbers[-1])
            for number in config.numbers:
                yield pick, seed, order[:number]
        if ALL in config.budgets:
            yield ALL, seed, picker.cells


def _points(picker: Picker, config: BudgetStudyConfig, chosen: tuple[str, int, list[str]]) -> Iterator[Point]:
    pick, seed, cells = chosen
    groups = sorted((generator("held", seed, group[0]).random(), group) for group in by_nucleus(cells, picker.nucleus))
    about: dict[str, Any] = {"budget": len(cells), "pick": pick, "seed": seed, "frames_opened": picker.frames(cells)}
    for method in config.methods:
        held = _held([group for _, group in groups], held_of(len(cells), method))
        train = sorted(set(cells) - set(held))
        views = math.ceil(CELLS_A_STEP / (len(train) / max(picker.views(train), 1)))
        shared = {"train_cells": train, "held_cells": held, "pick": pick, "seed": seed}
        steps = config.steps or steps_of(len(cells), method)
        shared |= {"steps": steps, "accumulate": min(MOST_VIEWS, views)}
        finds = method in FINDING
        for prompt in (NO_PROMPT,) if finds else config.prompts:
            for variants in (0,) if finds else config.variants:
                own = {} if finds else _method(method, config) | {"prompt": prompt, "variants": variants}
                tuning = config.tuning.with_choices(**shared, **own)
                point = about | {"method": method, "variants": variants, "tuned_for": prompt}
                yield point | {"settings": _settings(tuning, config, method)}, tuning


def _held(groups: list[list[str]], most: int) -> list[str]:
    """Return the cells that choose the step: of whole nuclei in their order, those that still fit into so many cells.

    Where none fits it is the smallest, so that some choose. The last one always trains.
    """
    held: list[str] = []
    for group in groups[:-1]:
        held += group if len(held) + len(group) <= most else []
    return held or (min(groups[:-1], key=len) if most else [])


def _settings(tuning: FinetuneConfig, config: BudgetStudyConfig, method: str) -> dict[str, Any]:
    """Return the settings of a point that every point of its curve shares; the number of steps is the study's."""
    if method == "classical":
        return {}
    shared = {} if method == "unet" else {name: value for name, value in tuning.flat().items() if name not in OWN}
    return shared | {"steps": config.steps, "choosing": "other nuclei"}  # of earlier versions: other cells


def _method(method: str, config: BudgetStudyConfig) -> dict[str, Any]:
    """Return the settings that make a fine-tuning this method."""
    if method == "lora":
        return {"adapt": "decoder"}
    return {"adapt": "encoder-full", "cut": config.cut} if method == "encoder-full" else {}


def _name(point: Mapping[str, Any]) -> str:
    names = ("method", "pick", "tuned_for", "budget", "seed")
    return ", ".join(f"{name} {point[name]}" if name in ("budget", "seed") else str(point[name]) for name in names)


def _notes(store: Store, config: BudgetStudyConfig) -> list[str]:
    notes = ["a budget counts labelled cells, those that choose the step among them; the validation block is not read"]
    if "doubt" in config.picks:
        notes.append("doubt looks at more labels than its budget: the detector and its calibration learned from them")
    if "far" in config.picks:
        notes.append("far looks at more labels than its budget: vectors are means over the outlines of all cells")
    if told := informed_by(store.recipe.encoder.architecture, store.recipe.dataset.path):
        notes.append(f"zero-shot: {told}")
    if config.seeds < 3:
        notes.append("fewer than 3 seeds: there are numbers and no verdict; give --seeds 3")
    if not store.is_trained:
        notes.append("the encoder is UNTRAINED: scores show that everything works, not what SAM can do")
    return notes
