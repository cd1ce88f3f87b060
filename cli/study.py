"""`hela-store study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.prompts.kinds import MIXED_PROMPTS

from . import verdicts
from .help import Command, Several
from .options import (
    cache_dir,
    device_option,
    finetune_option,
    json_option,
    labels_version_option,
    note_scorings,
    store_option,
    training_options,
)
from .output import bars, echo_facts, echo_json, echo_table, note, note_untrained
from .study_budget import OPTIONS, WHERE, budget_options, check_options, study_budget

if TYPE_CHECKING:
    from hela_store import EncoderStudy, Store
    from hela_store.studies.study import StudyResult

TUNING = ("steps", "lr", "loss", "cells", "patience", "validation_cells", "workers", "device")
"""Options that every fine-tuning of the table gets."""
TABLE = ("classical", "unet", "blind", "truth", "encoders", "validation_cells")
"""Options that a study of budgets does not take."""
SHARED = ("seeds", "split", "prompt_seeds")
"""Options that both kinds of study take, beside those of fine-tuning."""
PROMPTS = click.Choice(("all", *MIXED_PROMPTS))

GROUPS = {
    "What is compared": (
        "store",
        "prompts",
        "seeds",
        "split",
        "prompt_seeds",
        "encoders",
        "classical",
        "unet",
        "truth",
    ),
    "How many cells to annotate": ("budget", *OPTIONS, *WHERE),
    "Training": ("steps", "lr", "loss", "cells", "patience", "validation_cells"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command,
    groups=GROUPS,
    examples=(
        "hela-store study -s fluo --prompt box point --seeds 3 --classical",
        "hela-store study -s fluo --budget 5,20,100,500,all --pick random frames",
    ),
)
@store_option
@labels_version_option
@click.option(
    "--prompt",
    "prompts",
    cls=Several,
    type=PROMPTS,
    multiple=True,
    metavar="KIND...",
    help=f"Compare these prompts, each with decoders of its own: {', '.join(MIXED_PROMPTS)}, separated by spaces; all: "
    "box, point and mask. [default: box, point, mask]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    help="Train each decoder with N seeds. [default: 3; with --budget: 5]",
)
@click.option(
    "--split",
    type=click.Choice(["test", "val"]),
    default="test",
    show_default=True,
    help="Choose the frames to score.",
)
@click.option(
    "--prompt-seeds",
    type=click.IntRange(1, 100),
    help="Set how many random prompts are made per cell and prompt kind. [default: 3; with --budget: 1]",
)
@click.option(
    "--encoder",
    "encoders",
    cls=Several,
    multiple=True,
    metavar="NAME|FILE...",
    help="Compare these encoders, separated by spaces; the first one is what the others are compared with. Each is a "
    "name that `hela-store encoders` lists, or a file or folder of weights. Missing views are embedded. [default: the "
    "store's own]",
)
@click.option("--classical", is_flag=True, help="Run the classical baseline if there is none yet.")
@click.option("--unet", is_flag=True, help="Train a U-Net for each training seed that has none yet.")
@click.option(
    "--blind",
    is_flag=True,
    help="Also fine-tune decoders that never see the image; other decoders have to beat their scores.",
)
@click.option(
    "--truth", type=click.Choice(["GT", "ST", "GT+ST"]), help="Also score against these labels, as `score` does."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.md",
    help="Also write the table as Markdown into this file.",
)
@budget_options
@training_options("steps")
@finetune_option("lr", "Set the learning rate at its peak.", type=float, metavar="X")
@finetune_option("loss", "Choose the loss of every run.", metavar="NAME")
@finetune_option("cells", "Train on at most N cells per step.", type=click.IntRange(1), metavar="N")
@training_options("patience", "validation_cells", "workers")
@device_option
@json_option
def study(
    store: Store, prompts: tuple[str, ...], encoders: tuple[str, ...], out: Path | None, as_json: bool, **choices: Any
) -> None:
    """Compare zero-shot, fine-tuned decoders and baselines. It makes one table. The same command resumes."""
    import hela_store as hs

    of_budget, budget = {name: choices.pop(name) for name in (*OPTIONS, *WHERE)}, choices.pop("budget")
    check_options(budget, of_budget, {name: (choices | {"encoders": encoders})[name] for name in TABLE})
    of_tuning = {name: choices.pop(name) for name in TUNING}
    tuning = hs.FinetuneConfig.of(**{name: value for name, value in of_tuning.items() if value is not None})
    if budget is not None:
        shared = {name: choices[name] for name in SHARED} | {"prompts": prompts, "steps": of_tuning["steps"]}
        study_budget(store, budget, tuning, out, as_json, **of_budget, **shared)
        return
    if not encoders:
        note_untrained(store)
    set_ones = {name: value for name, value in choices.items() if value is not None}
    config = hs.StudyConfig(prompts=prompts or ("all",), tuning=tuning, **set_ones)
    how: dict[str, Any] = {"cache_dir": cache_dir(), "progress": bars}
    result = hs.study_encoders(store, encoders, config, **how) if encoders else hs.study(store, config, **how)
    _show(store, result, out, as_json)


def _show(store: Store, result: StudyResult | EncoderStudy, out: Path | None, as_json: bool) -> None:
    from hela_store.studies.encoders import EncoderStudy
    from hela_store.studies.text import encoder_markdown, markdown, write

    if out is not None:
        write(encoder_markdown(result) if isinstance(result, EncoderStudy) else markdown(result), out)
    if as_json:
        echo_json(result.to_json())
    else:
        _echo(result)
    rescored = [] if isinstance(result, EncoderStudy) else [*dict.fromkeys(row.run for row in result.against)]
    note_scorings(store, rescored, None if as_json else note)
    if result.errors:
        raise click.exceptions.Exit(1)


def _echo(result: StudyResult | EncoderStudy) -> None:
    from hela_store.studies.encoders import EncoderStudy
    from hela_store.studies.text import (
        AGAINST,
        COLUMNS,
        ENCODER,
        SPREAD,
        against,
        encoder_blocks,
        encoder_footnotes,
        footnotes,
        spread,
        table,
    )

    if isinstance(result, EncoderStudy):
        for heading, lines in encoder_blocks(result):
            click.echo(heading)
            echo_table(ENCODER, lines)
        for text in encoder_footnotes(result):
            note(text)
        return
    echo_facts(list(result.facts.items()))
    echo_table(COLUMNS, table(result))
    echo_table(SPREAD, spread(result))
    if result.against:
        echo_table(AGAINST, against(result))
    for text in footnotes(result):
        note(text)
    verdicts.next_step("report")
