"""`hela-store new`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from hela_store.recipe.recipe import EncoderName, Labels, NormaliseMethod, Precision
from hela_store.workflows.new_config import AugmentPreset, NewArrays, NewAugment, NewConfig, NewEncoder, NewTiles

from .options import STORES, json_option, new_folder
from .output import UNTRAINED, bars, echo_facts, echo_json, note


@click.command()
@click.argument("name")
@click.option("--dataset", required=True, metavar="DIR|synthetic", help="A folder of frames, a stack, or: synthetic.")
@click.option("--sequence", "sequences", multiple=True, metavar="NAME", help="Take only these. [default: all]")
@click.option(
    "--labels",
    type=click.Choice(get_args(Labels)),
    help="Which labels. [default: the most complete there are]",
)
@click.option("--axis", default="", metavar="t", help="Frames lie along this axis of stacks.")
@click.option("--channel", type=click.IntRange(0), help="Take this channel of several.")
@click.option("--pixel-size-um", type=float, metavar="UM", help="Edge length of a pixel. [default: from metadata]")
@click.option("--offset", type=float, help="Black level in counts. [default: estimated]")
@click.option("--field-of-interest", type=click.IntRange(0), metavar="PX", help="Outer band that carries no labels.")
@click.option(
    "--encoder",
    type=click.Choice(get_args(EncoderName)),
    default=NewEncoder.architecture,
    show_default=True,
    help="Which SAM; nano@1 and nano@2 are the editions of nano.",
)
@click.option("--checkpoint", default="", metavar="FILE", help="Its weights. [default: shipped, or fetched once]")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=NewEncoder.precision,
    show_default=True,
    help="Of the encoder.",
)
@click.option(
    "--normalise",
    type=click.Choice(get_args(NormaliseMethod)),
    default=NewConfig.normalise,
    show_default=True,
    help="From counts to what the encoder sees.",
)
@click.option("--tile", default=NewTiles.tile, show_default=True, metavar="auto|none|PX", help="Edge length of tiles.")
@click.option("--overlap", type=click.IntRange(0), metavar="PX", help="Of tiles. [default: from the size of the cells]")
@click.option(
    "--variants",
    type=click.IntRange(0),
    default=NewAugment.variants,
    show_default=True,
    help="Augmented ones of every view.",
)
@click.option(
    "--augment",
    type=click.Choice(get_args(AugmentPreset)),
    default=NewAugment.preset,
    show_default=True,
    help="paper: geometry only, the elastic formula as written.",
)
@click.option(
    "--codec", default=NewArrays.codec, show_default=True, metavar="NAME", help="raw, lz4, zstd or bitround:<keepbits>."
)
@click.option("--data", default="", metavar="s3://BUCKET/PREFIX", help="Arrays go there. [default: beside store.toml]")
@click.option(
    "--train-sequence", "train_sequences", multiple=True, metavar="NAME", help="Split by sequence: train here,"
)
@click.option("--test-sequence", "test_sequences", multiple=True, metavar="NAME", help="and test there.")
@click.option("--train-frames", default="", metavar="0-54", help="Split by frame numbers, both ends included.")
@click.option("--val-frames", default="", metavar="58-66", help="Frames to validate on.")
@click.option("--test-frames", default="", metavar="70-91", help="Frames to test on.")
@json_option
def new(name: str, as_json: bool, **choices: Any) -> None:
    """Look at a data set and write a commented store.toml; overwrites nothing.

    NAME makes ./stores/NAME; with a slash it is the folder itself.
    """
    import hela_store as hs

    report = hs.new(new_folder(name, Path.cwd()), NewConfig.of(**choices), bars)
    if as_json:
        echo_json(report.to_json())
        return
    echo_facts(report.facts())
    if not report.trained:
        note(UNTRAINED)
    shown = name if report.store.path.parent.name == STORES and "/" not in name else str(report.store.path)
    click.echo(f"next: hela-store embed -s {shown}")
