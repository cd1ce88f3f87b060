"""A grid of fine-tunings, one run folder each.

What is done is read from the runs themselves: a point of the grid whose configuration a published run has is not run
again, and an interrupted one goes on. So a killed sweep is taken up by the same command, and several processes may work
on one sweep: whoever claims a point works on it, the others go on to the next and come back to it last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from hela_store.base.executors import outcome
from hela_store.base.progress import Progress, silent
from hela_store.base.sections import check_names
from hela_store.errors import ClusterError, HelaError, RecipeError
from hela_store.recipe.recipe import Recipe
from hela_store.runs.folder import latest, load_run
from hela_store.sam.devices import in_turn
from hela_store.store.store import Store
from hela_store.training.config import NAMES, FinetuneConfig
from hela_store.training.finetune import shared

Point = tuple[dict[str, Any], FinetuneConfig]
"""What a point of the grid has of it, and its whole configuration."""
Work = Callable[..., "SweepRow | None"]
"""Does one point; see :func:`run_points`."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One point of the grid.

    Attributes
    ----------
    choices : what this point has of the grid, by name
    run : id; empty where it failed
    zero_shot_iou, mean_iou, mean_change, low, high, verdict, best_step : as of the fine-tuning's result; None where it
        failed
    error : why it failed; empty else
    """

    choices: dict[str, Any]
    run: str = ""
    zero_shot_iou: float | None = None
    mean_iou: float | None = None
    mean_change: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    best_step: int | None = None
    error: str = ""

    def flat(self) -> dict[str, Any]:
        """Return the choices and the scores side by side."""
        return self.choices | {name: value for name, value in asdict(self).items() if name != "choices"}


def grid(base: FinetuneConfig, choices: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Return every combination of the choices, the first name varying slowest.

    Raises
    ------
    RecipeError, PromptError
        A name that a configuration does not have, a name without values, or an impossible value: before anything runs.
    """
    check_names(choices, NAMES, "a fine-tuning")
    for name, values in choices.items():
        if not values:
            raise RecipeError(f"a sweep over {name} has no values")
    points = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [(point, base.with_choices(**point)) for point in points]


def sweep(
    store: Store,
    base: FinetuneConfig,
    choices: Mapping[str, Sequence[Any]],
    *,
    executor: Executor | None = None,
    cache_dir: Path | None = None,
    report: Callable[[SweepRow], None] = lambda row: None,
    progress: Progress = silent,
) -> list[SweepRow]:
    """Run a grid of fine-tunings; a point that fails is told and the others go on.

    Parameters
    ----------
    store : with the views of its train and val blocks embedded
    base : what all points share
    choices : values by flat name of a setting (:data:`hela_store.training.config.NAMES`), e.g. ``{"lr": [1e-4, 3e-4]}``
    executor : where points run side by side, see :mod:`hela_store.base.executors`; here, one after another, where None
    cache_dir : where a fetched official checkpoint lies; only an encoder that adapts is loaded
    report : called with each row when it is there
    progress : shown point by point

    Returns
    -------
    list of SweepRow
        In the order of the grid.
    """
    # "latest" would be another run from point to point
    choices = {name: [_by_name(store, v) if name == "init" else v for v in values] for name, values in choices.items()}
    points, rows = grid(base.with_choices(init=_by_name(store, base.init)), choices), dict[int, SweepRow]()
    done = run_points(store, points, tuned_row, executor, {"cache_dir": cache_dir})
    for number, row in progress(done, total=len(points), what="sweep"):
        rows[number] = row
        report(row)
    return [rows[number] for number in range(len(points))]


def _by_name(store: Store, run: str | None) -> str | None:
    return latest(store.path, "finetune").id if run == "latest" else run


def run_points(
    store: Store, points: Sequence[Point], work: Work, executor: Executor | None, how: Mapping[str, Any]
) -> Iterator[tuple[int, SweepRow]]:
    """Yield each point's number and row as it is done; those that another process works on come last.

    Parameters
    ----------
    store : Store
    points : what is done
    work : called with the store, the choices and configuration of a point, ``wait`` and ``how``; a function of a
        module, so that other processes find it
    executor : where points run side by side; here, one after another, where None
    how : more keyword arguments of ``work``
    """
    left = list(range(len(points)))
    for wait in (False, True):
        busy = []
        part = {number: points[number] for number in left}
        for number, row in _tried(store, part, work, executor, {**how, "wait": wait}):
            if row is None:
                busy.append(number)
            else:
                yield number, row
        left = busy


def _tried(
    store: Store, points: Mapping[int, Point], work: Work, executor: Executor | None, how: dict[str, Any]
) -> Iterator[tuple[int, SweepRow | None]]:
    if executor is None:
        for number, (point, config) in points.items():
            yield number, work(store, point, config, **how)
        return
    place = store.path, store.recipe, store.labels_version
    # processes of this machine share its GPUs; a worker of a cluster sees the one it is to use
    here = isinstance(executor, ProcessPoolExecutor)
    futures = {}
    for turn, (number, (point, config)) in enumerate(points.items()):
        there = config.with_choices(device=in_turn(config.device, turn)) if here else config
        futures[executor.submit(_row_at, place, work, (point, there), how)] = number
    for future in as_completed(futures):
        number = futures[future]
        try:
            yield number, outcome(future)
        except ClusterError as error:
            yield number, SweepRow(choices=points[number][0], error=str(error))


def _row_at(place: tuple[Path, Recipe, int], work: Work, point: Point, how: dict[str, Any]) -> SweepRow | None:
    choices, config = point
    if current_process().daemon:
        config = config.with_choices(workers=0)  # Dask's processes may not have any of their own
    return work(Store(*place), choices, config, **how)


def tuned_row(
    store: Store, point: dict[str, Any], config: FinetuneConfig, *, wait: bool, cache_dir: Path | None
) -> SweepRow | None:
    """Return the row of a point; None if another process works on it and we do not ``wait`` for that."""
    try:
        done = shared(store, config, wait=wait, cache_dir=cache_dir)
        if done is None:
            return None
        result = load_run(store.path, done.run).result()
    except HelaError as error:
        return SweepRow(choices=point, error=str(error))
    names = ("run", "mean_change", "low", "high", "best_step")
    scores = {"zero_shot_iou": result["zero_shot"]["mean_iou"], "mean_iou": result["tuned"]["mean_iou"]}
    return SweepRow(choices=point, verdict=done.verdict, **{name: result[name] for name in names}, **scores)
