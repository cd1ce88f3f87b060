"""`hela-store pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hela_store.pretrain.config import PretrainConfig

from . import verdicts
from .help import Command
from .output import bars, note, relative


@click.command(cls=Command, examples=("hela-store pretrain --dsb2018 DIR --out weights",))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write state and weights into this folder.",
)
@click.option(
    "--dsb2018",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also learn from the stills of DSB 2018 in this folder.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=PretrainConfig.steps,
    show_default=True,
    help="Train for this many optimiser steps.",
)
@click.option(
    "--seed",
    type=int,
    default=PretrainConfig.seed,
    show_default=True,
    help="Set the random seed for weights, scenes and batches.",
)
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default=PretrainConfig.precision,
    show_default=True,
    help="Set the number format of the encoder; `hela-store doctor` says whether bfloat16 pays off.",
)
def pretrain(out: Path, dsb2018: Path | None, **choices: Any) -> None:
    """Train nano, the small SAM, from random weights. The same command resumes."""
    from hela_store.pretrain.train import pretrain

    weights = pretrain(dsb2018, out, PretrainConfig(**choices), bars, note)
    click.echo(weights)
    verdicts.new_store("nano", relative(Path(weights)))
