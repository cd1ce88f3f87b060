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
    "--dsb2018", type=click.Path(path_type=Path), metavar="DIR", help="Stills of DSB 2018 to learn from as well."
)
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
def pretrain(out: Path, dsb2018: Path | None, **choices: Any) -> None:
    """Train nano, the small SAM, from nothing; the same command goes on where it stopped."""
    from hela_store.pretrain.train import pretrain

    weights = pretrain(dsb2018, out, PretrainConfig(**choices), bars, note)
    click.echo(weights)
