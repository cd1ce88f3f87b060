"""`hela-store pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hela_store.pretrain.config import PretrainConfig

from . import verdicts
from .help import Command, Several
from .output import bars, note, relative


@click.command(cls=Command, examples=("hela-store pretrain --data dsb2018 --out weights",))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write state and weights into this folder.",
)
@click.option(
    "--data",
    cls=Several,
    multiple=True,
    metavar="FOLDER[:WEIGHT]...",
    help="Learn from the labelled images in these folders, images/*.png and masks/*.tif, separated by spaces. A folder "
    "with weight 2 is drawn from twice as often.",
)
@click.option(
    "--init",
    default="",
    metavar="FILE",
    help="Start from these weights: a file nano.safetensors, or nano@1 for the shipped nano.",
)
@click.option(
    "--decoder-only",
    is_flag=True,
    help="Train the decoder only; a step takes about a third of the time.",
)
@click.option(
    "--drawn",
    type=click.FloatRange(0, 1, max_open=True),
    default=PretrainConfig.drawn,
    show_default=True,
    help="Take this share of the crops from synthetic scenes, the rest from --data.",
)
@click.option(
    "--lr", type=float, default=PretrainConfig.lr, show_default=True, help="Set the learning rate at its peak."
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=PretrainConfig.steps,
    show_default=True,
    help="Train for N optimiser steps.",
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
def pretrain(out: Path, **choices: Any) -> None:
    """Train nano, our small SAM, on synthetic and real images. The same command resumes."""
    from hela_store.pretrain.train import pretrain

    weights = pretrain(out, PretrainConfig(**choices), bars, note)
    click.echo(weights)
    verdicts.new_store("nano@2", relative(weights))
