"""`hela-store study --budget`: how many cells to annotate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.studies.budget_config import METHODS, PICKS, BudgetStudyConfig, parse_budgets
from hela_store.training.config import FinetuneConfig

from . import verdicts
from .help import Several
from .options import F, cache_dir, note_scorings
from .output import bars, echo_json, echo_table, note, note_untrained

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.studies.budget import BudgetPlan, BudgetResult

DEFAULT = BudgetStudyConfig()
OPTIONS = ("picks", "methods", "variants", "test_cells", "cut")
"""Names of the options that only a study of budgets takes, as its configuration has them."""
WHERE = ("dry_run", "jobs", "scheduler")


def _joined(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> str | None:
    """Return the budgets as one text, with commas, whichever way they were given."""
    return ",".join(part.strip(",") for part in value) if value else None


SEVERAL: dict[str, Any] = {"cls": Several, "multiple": True}
CHOICES: list[Callable[[F], F]] = [
    click.option(
        "--budget",
        metavar="N...",
        callback=_joined,
        help="Say how many labelled cells are enough, instead of comparing decoders. Fine-tune on each of these "
        f"numbers of cells, such as {','.join(map(str, DEFAULT.budgets))}, separated by spaces or commas; all: "
        "every cell.",
        **SEVERAL,
    ),
    click.option(
        "--pick",
        "picks",
        type=click.Choice(PICKS),
        metavar="PICK...",
        help="Annotate cells in one or several of these orders: random, frames (frame by frame), far (farthest "
        f"apart) and doubt (the most doubtful first), separated by spaces. [default: {', '.join(DEFAULT.picks)} only]",
        **SEVERAL,
    ),
    click.option(
        "--method",
        "methods",
        type=click.Choice(METHODS),
        metavar="METHOD...",
        help="Train with one or several of these methods: decoder, lora (low-rank adapters in the decoder), "
        "encoder-full (the encoder's last layers and the decoder), unet and classical, separated by spaces. "
        f"[default: {', '.join(DEFAULT.methods)} only]",
        **SEVERAL,
    ),
    click.option(
        "--variants",
        type=click.IntRange(0),
        metavar="N...",
        help="Also train on N augmented variants of each view; 0, or without this option: none. Give several "
        "numbers to compare them.",
        **SEVERAL,
    ),
]
"""What a study of budgets compares."""


def budget_options(command: F) -> F:
    """Give ``study`` the options of a study of budgets."""
    options: list[Callable[[F], F]] = [
        *CHOICES,
        click.option(
            "--test-cells",
            type=click.IntRange(1),
            metavar="N",
            help=f"Score every decoder on at most N test cells. [default: {DEFAULT.test_cells}]",
        ),
        click.option(
            "--cut",
            type=click.IntRange(0),
            metavar="K",
            help="Freeze the first K encoder layers, for method encoder-full.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would run, and stop."),
        click.option(
            "--jobs",
            type=click.IntRange(1),
            metavar="N",
            help="Run N fine-tunings at the same time on this machine, not one after another.",
        ),
        click.option("--scheduler", metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def check_options(budget: str | None, given: dict[str, Any], others: dict[str, Any]) -> None:
    """Refuse options that the other kind of study would ignore.

    Parameters
    ----------
    budget : of ``--budget``
    given : options of a study of budgets, by name
    others : options that a study of budgets does not take, by name
    """
    if budget is None:
        used = [name for name, value in given.items() if value is not None and value is not False and value != ()]
        if name := next(iter(used), None):
            raise click.UsageError(
                f"{_typed(name)} is for a study of budgets; give --budget, such as --budget 5,20,100,all"
            )
    elif wrong := next((name for name, value in others.items() if value), None):
        raise click.UsageError(f"{_typed(wrong)} is not for a study of budgets; leave it out, or leave out --budget")


def _typed(name: str) -> str:
    own = {"picks": "pick", "methods": "method", "encoders": "encoder"}
    return "--" + own.get(name, name).replace("_", "-")


def study_budget(
    store: Store, budget: str, tuning: FinetuneConfig, out: Path | None, as_json: bool, **given: Any
) -> None:
    """Run a study of budgets and print it.

    Parameters
    ----------
    store : the store
    budget : of ``--budget``
    tuning : settings that all fine-tunings share
    out : file for the table as Markdown
    as_json : print JSON
    given : other options by name; what is not set has the default
    """
    from hela_store.base.executors import dask, processes
    from hela_store.studies.budget import plan_budgets, study_budgets
    from hela_store.studies.budget_text import budget_markdown
    from hela_store.studies.study import ALL
    from hela_store.studies.text import write

    where = {name: given.pop(name) for name in WHERE}
    if where["jobs"] and where["scheduler"]:
        raise click.UsageError("--jobs is for this machine, --scheduler for a cluster; give one of them")
    chosen: dict[str, Any] = {
        name: tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, ())
    }
    if "all" in chosen.get("prompts", ()):
        chosen["prompts"] = ALL
    config = BudgetStudyConfig(budgets=parse_budgets(budget), tuning=tuning, **chosen)
    note_untrained(store)
    plan = plan_budgets(store, config, bars)
    if where["dry_run"]:
        _echo_plan(plan, as_json)
        return
    note(f"{plan} ...")
    scheduler, jobs = where["scheduler"], where["jobs"]
    with dask(scheduler) if scheduler else processes(jobs) if jobs else nullcontext() as executor:
        how: dict[str, Any] = {"executor": executor, "cache_dir": cache_dir(), "progress": bars}
        result = study_budgets(store, config, plan=plan, **how)
    if out is not None:
        write(budget_markdown(result), out)
    if as_json:
        echo_json(result.to_json())
    else:
        _echo(result)
    note_scorings(store, [], None if as_json else note)
    if result.errors:
        raise click.exceptions.Exit(1)


def _echo_plan(plan: BudgetPlan, as_json: bool) -> None:
    if as_json:
        echo_json(plan.to_json())
        return
    click.echo(f"Would run {plan}.")
    click.echo(f"The training frames have {plan.cells:,} cells; there are {plan.frames} frames.")


def _echo(result: BudgetResult) -> None:
    from hela_store.studies.budget_text import COLUMNS, budget_lines

    for prompt in dict.fromkeys(row.prompt for row in result.table.rows):
        click.echo(f"Prompt {prompt}, {result.scored} cells scored, mean over seeds:")
        echo_table(COLUMNS, budget_lines(result, prompt))
    for text in result.sentences:
        click.echo(text)
    if not result.sentences:
        note("a curve needs 4 different budgets; name more of them with --budget")
    for text in [*result.notes, *result.errors]:
        note(text)
    verdicts.next_step("report")
