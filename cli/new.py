"""`hela-store new`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args

import click

from hela_store.recipe.recipe import Labels, NormaliseMethod, Precision
from hela_store.workflows.new_config import (
    AugmentPreset,
    NewArrays,
    NewAugment,
    NewConfig,
    NewEncoder,
    NewSplit,
    NewTiles,
)

from . import verdicts
from .help import Command
from .options import STORES, cache_dir, json_option, new_folder
from .output import UNTRAINED, bars, echo_facts, echo_json, note, say

GROUPS = {
    "Data": ("dataset", "sequences", "labels", "axis", "channel", "pixel_size_um", "offset", "field_of_interest"),
    "Encoder": ("encoder", "checkpoint", "precision", "normalise"),
    "Views": ("tile", "overlap", "variants", "augment"),
    "Split": ("train_sequences", "test_sequences", "train_frames", "val_frames", "test_frames", "group"),
    "Storage": ("codec", "shard", "data"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command,
    groups=GROUPS,
    positional={
        "name": "Name of the store, which becomes the folder ./stores/NAME. With a slash it is the path of that folder."
    },
    examples=(
        "hela-store new fluo --dataset path/to/frames",
        "hela-store new fluo --dataset Fluo-N2DL-HeLa --labels GT+ST --tile 512",
    ),
)
@click.argument("name")
@click.option(
    "--dataset",
    required=True,
    metavar="DIR|synthetic",
    help="Read this folder of frames or this stack; synthetic: make a sequence of artificial nuclei.",
)
@click.option(
    "--sequence",
    "sequences",
    multiple=True,
    metavar="NAME",
    help="Take only this sequence; repeat the option for several. [default: all]",
)
@click.option(
    "--labels",
    type=click.Choice(get_args(Labels)),
    help="Choose the labels: ST, GT or GT+ST of the Cell Tracking Challenge (reference, hand-drawn, both), masks "
    "(label images) or none. [default: the most complete labels found]",
)
@click.option("--axis", default="", metavar="LETTER", help="Read frames along this axis of a stack, such as t.")
@click.option(
    "--channel", type=click.IntRange(0), help="Read this channel, counted from 0; needed if an image has several."
)
@click.option(
    "--pixel-size-um",
    type=float,
    metavar="UM",
    help="Set the edge length of a pixel, in micrometres. [default: from the metadata of the files]",
)
@click.option(
    "--offset",
    type=float,
    metavar="COUNTS",
    help="Set the black level, which is what the camera records without light, in counts. [default: estimated]",
)
@click.option(
    "--field-of-interest",
    type=click.IntRange(0),
    metavar="PX",
    help="Ignore objects that lie wholly within PX pixels of the edge of a frame, because nobody labelled them.",
)
@click.option(
    "--encoder",
    default=NewEncoder.encoder,
    show_default=True,
    metavar="NAME",
    help="Use the encoder of this SAM, by a name that `hela-store encoders` lists, such as vit_b_lm.",
)
@click.option(
    "--checkpoint",
    default="",
    metavar="FILE",
    help="Read the encoder's weights from this file. [default: shipped, or downloaded once]",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=NewEncoder.precision,
    show_default=True,
    help="Set the number format in which the encoder computes.",
)
@click.option(
    "--normalise",
    type=click.Choice(get_args(NormaliseMethod)),
    default=NewConfig.normalise,
    show_default=True,
    help="Choose how pixel values are scaled to the range that the encoder expects.",
)
@click.option(
    "--tile",
    default=NewTiles.tile,
    show_default=True,
    metavar="auto|none|PX",
    help="Set the edge length of tiles, in pixels; none: whole frames.",
)
@click.option(
    "--overlap",
    type=click.IntRange(0),
    metavar="PX",
    help="Set the overlap of tiles, in pixels. [default: from the size of the cells]",
)
@click.option(
    "--variants",
    type=click.IntRange(0),
    default=NewAugment.variants,
    show_default=True,
    help="Embed N augmented variants of every view.",
)
@click.option(
    "--augment",
    type=click.Choice(get_args(AugmentPreset)),
    default=NewAugment.preset,
    show_default=True,
    help="Choose how variants are made; paper: as in a student study, which turned, flipped, shifted and bent images "
    "but left light and noise unchanged.",
)
@click.option(
    "--codec",
    default=NewArrays.codec,
    show_default=True,
    metavar="NAME",
    help="Compress embeddings with raw, lz4, zstd, bitround:<keepbits> or int8.",
)
@click.option(
    "--shard",
    type=int,
    default=NewArrays.shard,
    show_default=True,
    metavar="VIEWS",
    help="Put so many embeddings into one file or object, such as 64, so that a large store has fewer of them; 0: one "
    "file each.",
)
@click.option(
    "--data",
    default="",
    metavar="s3://BUCKET/PREFIX",
    help="Keep the arrays in this bucket. [default: beside store.toml]",
)
@click.option(
    "--train-sequence",
    "train_sequences",
    multiple=True,
    metavar="NAME",
    help="Train on this sequence; repeat the option for several.",
)
@click.option(
    "--test-sequence",
    "test_sequences",
    multiple=True,
    metavar="NAME",
    help="Test on this sequence; repeat the option for several.",
)
@click.option(
    "--train-frames",
    default="",
    metavar="RANGE",
    help="Train on these frame numbers, such as 0-54, both ends included. In a folder of images the numbers count "
    "from 0 in the order of the names, whatever numbers the names have.",
)
@click.option("--val-frames", default="", metavar="RANGE", help="Validate on these frame numbers, such as 58-66.")
@click.option("--test-frames", default="", metavar="RANGE", help="Test on these frame numbers, such as 70-91.")
@click.option(
    "--group",
    default=NewSplit.group,
    show_default=True,
    metavar="auto|none|look|copies|name:REGEX",
    help="Keep stills together in one part of the split: those that look alike, copies of one image, or those with "
    "the same part of their name, such as name:^[^_]+.",
)
@json_option
def new(name: str, as_json: bool, **choices: Any) -> None:
    """Look at a data set and write a commented store.toml. Existing files are never overwritten."""
    import hela_store as hs
    from hela_store.sam.rate import proposed_here

    report = hs.new(new_folder(name, Path.cwd()), NewConfig.of(**choices), bars, cache_dir=cache_dir())
    if as_json:
        echo_json(report.to_json())
        return
    echo_facts(report.facts())
    if not report.trained:
        note(UNTRAINED)
    for line in (*verdicts.advice(report), *verdicts.faster(proposed_here(), choices["precision"])):
        say(line)
    shown = name if report.store.path.parent.name == STORES and "/" not in name else str(report.store.path)
    click.echo(f"Next: hela-store embed -s {shlex.quote(shown)}")
