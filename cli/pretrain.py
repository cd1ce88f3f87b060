"""`hela-store pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hela_store.pretrain.config import PretrainConfig

from .output import bars, note


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where state and weights go."
)
@click.option(
    "--data",
    multiple=True,
    metavar="FOLDER[:WEIGHT]",
    help="Labelled images to learn from, images/*.png and masks/*.tif; may be given several times.",
)
@click.option("--init", default="", metavar="FILE", help="Weights to start from: a nano.safetensors, or nano@1.")
@click.option(
    "--drawn",
    type=click.FloatRange(0, 1, max_open=True),
    default=PretrainConfig.drawn,
    show_default=True,
    help="Share of the crops that are cut from drawn scenes.",
)
@click.option("--lr", type=float, default=PretrainConfig.lr, show_default=True, help="Highest learning rate.")
@click.option(
    "--steps", type=click.IntRange(1), default=PretrainConfig.steps, show_default=True, help="Optimiser steps."
)
@click.option(
    "--seed", type=int, default=PretrainConfig.seed, show_default=True, help="Of weights, scenes and batches."
)
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default=PretrainConfig.precision,
    show_default=True,
    help="Of the encoder; see `doctor` whether bfloat16 pays on this CPU.",
)
def pretrain(out: Path, **choices: Any) -> None:
    """Train nano, the small SAM, on drawn scenes and labelled images; the same command goes on where it stopped."""
    from hela_store.pretrain.train import pretrain

    click.echo(pretrain(out, PretrainConfig(**choices), bars, note))
