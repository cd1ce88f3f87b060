"""`hela-store study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.prompts.kinds import MIXED_PROMPTS

from .options import cache_dir, device_option, finetune_option, json_option, store_option
from .output import bars, echo_facts, echo_json, echo_table, note, note_untrained
from .sweep import Several

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.studies.study import StudyResult

TUNING = ("steps", "lr", "loss", "cells", "patience", "validation_cells", "workers", "device")
"""Options that every fine-tuning of the table gets."""
PROMPTS = click.Choice(("all", *MIXED_PROMPTS))


@click.command()
@store_option
@click.option(
    "--prompt",
    "prompts",
    cls=Several,
    type=PROMPTS,
    multiple=True,
    metavar="all|KIND...",
    help=f"Kinds, each with decoders of its own: {', '.join(MIXED_PROMPTS)}. [default: all: box, point and mask]",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Training seeds of each.")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True, help="Frames to score.")
@click.option("--prompt-seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Draws a cell.")
@click.option("--classical", is_flag=True, help="Run the classical baseline if there is none yet.")
@click.option("--unet", is_flag=True, help="Train a U-Net for each training seed that has none yet.")
@click.option("--blind", is_flag=True, help="Fine-tune image-blind decoders, too: the floor of every prompt kind.")
@click.option("--truth", type=click.Choice(["GT", "ST", "GT+ST"]), help="Score against these labels, too, as `score`.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.md", help="Write Markdown, too.")
@finetune_option("steps", "Number of optimiser steps of every run.", type=click.IntRange(1), metavar="N")
@finetune_option("lr", "Learning rate at its peak.", type=float, metavar="X")
@finetune_option("loss", "Loss of every run.", metavar="NAME")
@finetune_option("cells", "Maximum number of cells per training step.", type=click.IntRange(1), metavar="N")
@finetune_option(
    "patience", "Stop after N validations without a better one; 0: never.", type=click.IntRange(0), metavar="N"
)
@finetune_option("validation_cells", "Maximum number of cells per validation.", type=click.IntRange(1), metavar="N")
@finetune_option("workers", "Processes that prepare batches.", type=click.IntRange(0), metavar="N")
@device_option
@json_option
def study(store: Store, prompts: tuple[str, ...], out: Path | None, as_json: bool, **choices: Any) -> None:
    """Zero-shot and tuned, each prompt kind, several seeds, baselines: one table; run it again to go on."""
    import hela_store as hs
    from hela_store.studies.text import write

    note_untrained(store)
    of_tuning = {name: choices.pop(name) for name in TUNING}
    tuning = hs.FinetuneConfig.of(**{name: value for name, value in of_tuning.items() if value is not None})
    config = hs.StudyConfig(prompts=prompts or ("all",), tuning=tuning, **choices)
    result = hs.study(store, config, cache_dir=cache_dir(), progress=bars)
    if out is not None:
        write(result, out)
    if as_json:
        echo_json(result.to_json())
    else:
        _echo(result)
    if result.errors:
        raise click.exceptions.Exit(1)


def _echo(result: StudyResult) -> None:
    from hela_store.studies.text import AGAINST, COLUMNS, against, footnotes, table

    echo_facts(list(result.facts.items()))
    echo_table(COLUMNS, table(result))
    if result.against:
        echo_table(AGAINST, against(result))
    for text in footnotes(result):
        note(text)
