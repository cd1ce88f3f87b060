"""``store.toml`` as text: every value with a word on what else it could be."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from .recipe import Recipe

_TEMPLATE = """\
# Recipe of a hela-store: what is read, how it is encoded and split. What was made from it lies beside this file.
# Change values before the first `hela-store embed`, or make a second store: embeddings that exist are never rewritten.
#
{findings}
format = {format}
name = {name}

[dataset]
# ctc: <sequence>/t000.tif with <sequence>_ST/SEG; folder: images/ with masks/, or stacks with an axis
reader = {dataset.reader}
# absolute, or relative to this file's folder
path = {dataset.path}
# empty: all sequences
sequences = {dataset.sequences}
# ST (tracker reference), GT (partial gold), GT+ST (partial gold over the reference, cell by cell), masks, none
labels = {dataset.labels}
# px: objects wholly in this outer band carry no label and count neither way
field_of_interest = {dataset.field_of_interest}
# black level in counts: the pixel value that means no light
offset = {dataset.offset}
{pixel_size}
{stack}
[encoder]
# nano, vit_t, vit_b, vit_l, vit_h
architecture = {encoder.architecture}
# which weights these are, as `hela-store encoders` lists them; empty: the standard weights, or those in checkpoint
name = {encoder.name}
# a weights file; empty: the one that is shipped (nano) or fetched once (vit_*)
checkpoint = {encoder.checkpoint}
# sha256 of the weights; a file with another one is refused
sha256 = {encoder.sha256}
# float32, bfloat16, float16
precision = {encoder.precision}
# a fine-tuning run that adapted this encoder, and the sha256 of what it learned; empty: not adapted
adapter = {encoder.adapter}
adapter_sha256 = {encoder.adapter_sha256}
# micro-sam: read what `hela-store import micro-sam` brought in; empty: embeddings made here
source = {encoder.source}

[normalise]
# percentile, minmax, clahe: how counts become the 0..255 that the encoder gets; low and high are percentiles of a frame
method = {normalise.method}
low = {normalise.low}
high = {normalise.high}

[views]
# edge length of a tile in px; 0: whole frames
tile = {views.tile}
# least overlap of neighbouring tiles, px
overlap = {views.overlap}

[augment]
# number of augmented variants embedded beside every view; if you raise it, only the new ones are computed
variants = {augment.variants}
# all, train: which frames get them; scores come from unchanged views only
frames = {augment.frames}
seed = {augment.seed}
# a cell belongs to a variant if at least this share of its area is in it
keep = {augment.keep}
# each number is drawn evenly from its range with its probability; degrees, px, factor
rotate = {augment.rotate}
flip = {augment.flip}
shift = {augment.shift}
scale = {augment.scale}
# smooth noise of sigma px; alpha by amplitude, [] for its usual range: literal (25 to 35, the factor of the formula),
# rms (1 to 2 px along each axis), max (5 to 10 px, the longest displacement)
elastic = {augment.elastic}
# light above the black level: brightness multiplies it, contrast its distance from the mean, gamma is its exponent
brightness = {augment.brightness}
contrast = {augment.contrast}
gamma = {augment.gamma}
# shot noise; photons_per_count: how many photons one count above the black level stands for
poisson = {augment.poisson}
# standard deviation as a share of the frame's range; clip limit of a local equalisation
gaussian = {augment.gaussian}
clahe = {augment.clahe}

[arrays]
dtype = {arrays.dtype}
# raw, lz4, zstd, bitround:<keepbits>, int8
codec = {arrays.codec}
# empty: in arrays.zarr beside this file; or "s3://bucket/prefix", with the credentials that AWS's own tools find
data = {arrays.data}
# largest size in MiB of the local copy of what is read from there, in cache/ beside this file; 0: no copy
cache_mib = {arrays.cache_mib}
{shard}
[split]
{split}
"""
_SHARD = "# embeddings in one file or object; without this key each has its own\n"
_BY_FRAMES = """\
# frame numbers in every sequence, both ends included. In a folder of images they count from 0 in the order of the
# names. A frame in none of the three is unused: gaps keep neighbours apart, which show the same cells. All three
# empty: {rule}
mode = "frames"
train = {split.train}
val = {split.val}
test = {split.test}
"""
_GROUPED = """\
# which stills stay together, all in train, all in val or all in test, if these three are empty; intervals count such a
# group once. look: they look alike, copies: copies of one image, name:REGEX: the same part of the name, such as
# name:^[^_]+; "": none
group = {split.group}
"""
_BY_SEQUENCE = """\
# names of sequences; the last val_share of the training frames validate, after gap unused ones
mode = "sequence"
train = {split.train}
test = {split.test}
val_share = {split.val_share}
gap = {split.gap}
"""
_BY_FOLDS = """\
# every sequence is cut into this many equal parts in time; part number fold, counted from 0, is the test set. The
# frames after it validate (before it, if too few follow): val_share of all frames. gap: unused frames around both
mode = "folds"
folds = {split.folds}
fold = {split.fold}
val_share = {split.val_share}
gap = {split.gap}
"""
_WRAP: dict[str, Any] = {"initial_indent": "# ", "subsequent_indent": "#   ", "break_long_words": False}
STILLS_RULE = "60 % train, 15 % validate, 25 % test, drawn by the frame's id; a group stays together"
TIME_RULE = "in each sequence about 60 % train, 10 % validate, 24 % test in this order"


class _Toml:
    """Attributes of a recipe section as TOML values, for ``str.format``."""

    def __init__(self, section: object) -> None:
        self._section = section

    def __getattr__(self, name: str) -> str:
        return toml_value(getattr(self._section, name))


def toml_value(value: object) -> str:
    """Write a string, number, boolean, list of them or dataclass as TOML."""
    if is_dataclass(value):
        return "{ " + ", ".join(f"{f.name} = {toml_value(getattr(value, f.name))}" for f in fields(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    # JSON's strings, numbers and booleans are TOML's, but for DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def recipe_text(recipe: Recipe, findings: Sequence[str] = (), stills: bool = False) -> str:
    """Write a recipe as commented TOML that :func:`~hela_store.recipe.recipe.parse_recipe` reads back as the same.

    Parameters
    ----------
    recipe : Recipe
    findings : sequence of str
        What was found in the data; becomes a comment.
    stills : bool
        The frames are no time-lapse; changes a comment.
    """
    dataset, split = recipe.dataset, recipe.split
    names = ("dataset", "encoder", "normalise", "views", "augment", "arrays")
    sections = {name: _Toml(getattr(recipe, name)) for name in names}
    block = {"frames": _BY_FRAMES, "sequence": _BY_SEQUENCE, "folds": _BY_FOLDS}[split.mode]
    if split.group or (stills and split.mode == "frames"):
        block += _GROUPED
    um = dataset.pixel_size_um
    size = "# pixel_size_um = 0.5  # unknown" if um is None else f"pixel_size_um = {toml_value(um)}"
    stack = [f"axis = {toml_value(dataset.axis)}\n"] if dataset.axis else []
    stack += [f"channel = {dataset.channel}\n"] if dataset.channel is not None else []
    shard = f"{_SHARD}shard = {recipe.arrays.shard}\n" if recipe.arrays.shard else ""
    return _TEMPLATE.format(
        findings="\n".join(textwrap.fill(" ".join(line.split()), 120, **_WRAP) for line in findings),
        format=recipe.format,
        name=toml_value(recipe.name),
        pixel_size=size,
        stack="".join(stack),
        shard=shard,
        split=block.format(split=_Toml(split), rule=STILLS_RULE if stills else TIME_RULE).rstrip(),
        **sections,
    )
