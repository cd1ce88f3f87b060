"""`hela-store sweep`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from hela_store.prompts.kinds import TRAINING_PROMPTS
from hela_store.training.config import MASKS, SCHEDULES, FinetuneConfig

from .options import F, cache_dir, device_option, finetune_option, json_option, store_option
from .output import bars, echo_json, echo_table, note, note_in_domain, note_untrained

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.studies.sweep import SweepRow

SWEPT = (
    *("lr", "loss", "prompt", "seed", "cells", "window", "ema", "accumulate", "variants"),
    *("masks", "clicks", "refine", "schedule", "init"),
)


class Several(click.Option):
    """An option that takes all values up to the next option: ``--lr 1e-5 1e-4``."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the option go on taking values."""
        super().add_to_parser(parser, ctx)
        mine = next(parser._long_opt[name] for name in self.opts if name in parser._long_opt)
        once = mine.process

        def process(value: Any, state: Any) -> None:
            once(value, state)
            while state.rargs and not state.rargs[0].startswith("-"):
                once(state.rargs.pop(0), state)

        mine.process = process


def _several(name: str, kind: Any, help_text: str) -> Callable[[F], F]:
    return click.option(f"--{name}", name, cls=Several, type=kind, multiple=True, metavar="...", help=help_text)


@click.command()
@store_option
@_several("lr", float, "Learning rates.")
@_several("loss", str, "Losses.")
@_several("prompt", click.Choice(TRAINING_PROMPTS), "Prompts.")
@_several("seed", int, "Seeds.")
@_several("cells", click.IntRange(1), "Maximum numbers of cells per training step.")
@_several("window", int, "Embedding positions a prompt reads.")
@_several("ema", float, "Decays of the running average of the weights.")
@_several("accumulate", click.IntRange(1), "Views a step.")
@_several("masks", click.Choice(MASKS), "Which of a lone point's three masks learn; no other --prompt.")
@_several("clicks", click.IntRange(1), "Passes with prompts that have points, a click each; no other --prompt.")
@_several("refine", float, "Shares of the steps with a second pass.")
@_several("schedule", click.Choice(SCHEDULES), "How the learning rate falls after its peak.")
@_several("init", str, "Fine-tunings whose weights are the beginning.")
@_several("variants", click.IntRange(0), "Augmented variants to train on.")
@finetune_option("steps", "Number of optimiser steps of every run.", type=click.IntRange(1), metavar="N")
@finetune_option(
    "patience", "Stop after N validations without a better one; 0: never.", type=click.IntRange(0), metavar="N"
)
@finetune_option("evaluate_every", "Steps between validations; 0: one epoch.", type=click.IntRange(0), metavar="N")
@finetune_option("validation_cells", "Maximum number of cells per validation.", type=click.IntRange(1), metavar="N")
@finetune_option("workers", "Processes that prepare batches.", type=click.IntRange(0), metavar="N")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Run N at once, in processes of this machine.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler.")
@device_option
@json_option
def sweep(store: Store, as_json: bool, jobs: int | None, scheduler: str | None, **given: Any) -> None:
    """Run a grid of fine-tunings, one run folder each; the same command again goes on with what is left."""
    from hela_store.base.executors import dask, processes
    from hela_store.studies.sweep import sweep as run_sweep

    if jobs and scheduler:
        raise click.UsageError("--jobs is for this machine, --scheduler for a cluster; give one of them")
    note_untrained(store)
    note_in_domain(store)
    choices = {name: list(dict.fromkeys(given[name])) for name in SWEPT if given[name]}
    shared = {name: value for name, value in given.items() if value is not None and name not in SWEPT}
    where = dask(scheduler) if scheduler else processes(jobs) if jobs else nullcontext()
    with where as executor:
        how: dict[str, Any] = {"executor": executor, "cache_dir": cache_dir(), "report": _told, "progress": bars}
        rows = run_sweep(store, FinetuneConfig.of(**shared), choices, **how)
    if as_json:
        echo_json([row.flat() for row in rows])
    else:
        echo_table(list(rows[0].flat()), [list(row.flat().values()) for row in rows])
        for prompt, row in _best(rows).items():
            change = f"{row.mean_change:+.4f} over zero-shot"
            click.echo(f"best on validation, tuned for {prompt}: {row.run}, IoU {row.mean_iou:.4f} ({change})")
    if any(row.error for row in rows):
        raise click.exceptions.Exit(1)


def _best(rows: list[SweepRow]) -> dict[str, SweepRow]:
    """Return of each prompt the row with the highest mean IoU, if it learned something; prompts are not comparable."""
    best: dict[str, SweepRow] = {}
    for row in sorted((row for row in rows if row.best_step), key=lambda row: row.mean_iou or 0.0):
        best[row.choices.get("prompt", "box")] = row
    return best


def _told(row: Any) -> None:
    if row.error:
        note(f"{row.choices}: {row.error}")
