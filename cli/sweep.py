"""`hela-store sweep`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from hela_store.prompts.kinds import MIXES, TRAINING_PROMPTS
from hela_store.training.config import MASKS, SCHEDULES, FinetuneConfig

from . import verdicts
from .help import RUN, Command, Several
from .options import (
    F,
    cache_dir,
    device_option,
    json_option,
    labels_version_option,
    store_option,
    training_options,
    typed,
)
from .output import NOTHING, bars, echo_json, echo_table, note, note_in_domain, note_informed, note_untrained, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.studies.sweep import SweepRow

SWEPT = (
    *("lr", "loss", "prompt", "seed", "cells", "window", "ema", "accumulate", "variants"),
    *("masks", "clicks", "refine", "schedule", "init"),
)


def _several(name: str, kind: Any, help_text: str, what: str = "N") -> Callable[[F], F]:
    return click.option(f"--{name}", name, cls=Several, type=kind, multiple=True, metavar=f"{what}...", help=help_text)


GROUPS = {
    "Values to combine": (
        "lr",
        "loss",
        "prompt",
        "seed",
        "cells",
        "window",
        "ema",
        "accumulate",
        "masks",
        "clicks",
        "refine",
        "schedule",
        "init",
        "variants",
    ),
    "Settings of every run": ("steps", "patience", "evaluate_every", "validation_cells"),
    "Where it runs": ("jobs", "scheduler", "device", "workers"),
}
"""Options by the heading of the help."""


@click.command(cls=Command, groups=GROUPS, examples=("hela-store sweep -s fluo --lr 1e-4 3e-4 1e-3 --seed 0 1 2",))
@store_option
@labels_version_option
@_several("lr", float, "Try these learning rates, such as 1e-4 3e-4.", "X")
@_several("loss", str, "Try these losses.", "NAME")
@_several("prompt", click.Choice(TRAINING_PROMPTS), "Try these prompts.", "KIND")
@_several("seed", int, "Try these training seeds.")
@_several("cells", click.IntRange(1), "Try these maximum numbers of cells per step.")
@_several("window", int, "Try these numbers of embedding positions per side.")
@_several("ema", float, "Try these decays of the running average of the weights.", "DECAY")
@_several("accumulate", click.IntRange(1), "Try accumulating gradients over these numbers of views.")
@_several(
    "masks",
    click.Choice(MASKS),
    "Try training the best or all masks of a single click; only with --prompt point.",
    "best|all",
)
@_several(
    "clicks",
    click.IntRange(1),
    "Try these numbers of passes with one more click each; only with prompts that have points.",
)
@_several("refine", float, "Try these shares of steps with a second pass.", "SHARE")
@_several("schedule", click.Choice(SCHEDULES), "Try these schedules of the learning rate.", "NAME")
@_several("init", str, f"Try starting from the weights of these fine-tunings. RUN is {RUN}.", "RUN")
@_several("variants", click.IntRange(0), "Try these numbers of augmented variants.")
@training_options("steps", "patience", "evaluate_every", "validation_cells", "workers")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Run N fine-tunings at the same time on this machine, not one after another.",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler.")
@device_option
@json_option
def sweep(store: Store, as_json: bool, jobs: int | None, scheduler: str | None, **given: Any) -> None:
    """Run a grid of fine-tunings, one run each. The same command resumes with what is left.

    An option under "Values to combine" takes several values, separated by spaces. Every combination becomes a run.
    """
    from hela_store.base.executors import dask, processes
    from hela_store.studies.sweep import sweep as run_sweep

    if jobs and scheduler:
        raise click.UsageError("--jobs is for this machine, --scheduler for a cluster; give one of them")
    note_untrained(store)
    note_in_domain(store)
    note_informed(store)
    choices = {name: list(dict.fromkeys(given[name])) for name in SWEPT if given[name]}
    shared = {name: value for name, value in given.items() if value is not None and name not in SWEPT}
    if not choices:
        note("note: no values to combine were given, so this is a single fine-tuning")
    where = dask(scheduler) if scheduler else processes(jobs) if jobs else nullcontext()
    with where as executor:
        how: dict[str, Any] = {"executor": executor, "cache_dir": cache_dir(), "report": _told, "progress": bars}
        rows = run_sweep(store, FinetuneConfig.of(**shared), choices, **how)
    if as_json:
        echo_json([row.flat() for row in rows])
    else:
        _echo(store, rows)
    if any(row.error for row in rows):
        raise click.exceptions.Exit(1)


COLUMNS = {
    "run": "run",
    "zero_shot_iou": "zero-shot IoU",
    "mean_iou": "mean IoU",
    "mean_change": "mean change",
    "low": "95 % from",
    "high": "to",
    "verdict": "verdict",
    "best_step": "best step",
    "error": "error",
}
"""Columns of the table and their headings; the values that were combined stand before them."""


def _echo(store: Store, rows: list[SweepRow]) -> None:
    names = [name for name in COLUMNS if name != "error" or any(row.error for row in rows)]
    lines = []
    for row in rows:
        values = row.flat()
        for name in ("mean_change", "low", "high"):
            values[name] = NOTHING if values[name] is None else f"{values[name]:+.3f}"
        values["verdict"] = values["verdict"] or NOTHING  # too few frames
        lines.append([*row.choices.values(), *(values[name] for name in names)])
    echo_table([*rows[0].choices, *(COLUMNS[name] for name in names)], lines)
    if any(row.verdict for row in rows):
        say("A verdict is about the one training of its row, and not corrected for the number of rows.")
    _verdict(store, rows)


def _default(store: Store, prompt: str) -> str:
    """Say which run later commands use for a prompt: the latest that helped, which need not be the best."""
    from hela_store.errors import HelaError
    from hela_store.runs.default import default_run

    try:
        run = default_run(store.path, store.key, None if prompt in MIXES else prompt)
    except HelaError as error:  # another run is damaged: the sweep is complete all the same
        return f"The default run cannot be determined: {error}"
    return f"The default run for {prompt} is {run.id if run else 'none: the zero-shot decoder'}."


def _verdict(store: Store, rows: list[SweepRow]) -> None:
    for prompt, row in _best(rows).items():
        change = f"{row.mean_change:+.3f} over zero-shot"
        if (tried := sum(_prompt(other) == prompt for other in rows)) > 1:
            change += f"; the best of {tried}, so this gain is too high on average"
        say(f"Best on validation for {prompt}: {row.run}, IoU {row.mean_iou:.3f} ({change}).")
        say(_default(store, prompt))
        click.echo(f"Next: {typed(f'evaluate --run {row.run} --prompt {verdicts.scored(prompt)} --split val')}")


def _best(rows: list[SweepRow]) -> dict[str, SweepRow]:
    """Return of each prompt the row with the highest mean IoU, if it learned something; prompts are not comparable."""
    best: dict[str, SweepRow] = {}
    for row in sorted((row for row in rows if row.best_step), key=lambda row: row.mean_iou or 0.0):
        best[_prompt(row)] = row
    return best


def _prompt(row: SweepRow) -> str:
    return str(row.choices.get("prompt", "box"))


def _told(row: Any) -> None:
    if row.error:
        note(f"{row.choices}: {row.error}")
