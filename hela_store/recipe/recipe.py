"""The recipe: what a store is made of, as ``store.toml``.

Frozen dataclasses that validate themselves; an unknown key is an error that names the nearest known one. The recipe
says what to do, never what was found: what was found (limits, cells, views) is in ``ingest/`` and ``plan/``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from hela_store.augment.ranges import AugmentRecipe
from hela_store.base.checks import check_choice, check_range, did_you_mean
from hela_store.base.files import digest
from hela_store.errors import RecipeError, StoreError

FORMAT = 1
RESIZE = "bilinear-antialias-1024"
BLOCKS = {"nano": 4, "nano2": 7, "vit_b": 12, "vit_l": 24, "vit_h": 32}
TOKEN_WIDTH = {"nano": 192, "nano2": 192, "vit_b": 768, "vit_l": 1024, "vit_h": 1280}
"""Of the image encoders that can be cut: transformer blocks, and channels of a token between them."""
UNTRAINED = "untrained"
"""Takes the place of the checksum of nano's weights where this version ships none."""

RECIPE_FILE = "store.toml"
"""A folder that has one is a store."""
ReaderName = Literal["ctc", "folder"]
Labels = Literal["ST", "GT", "GT+ST", "masks", "none"]
TRUTH_NAMES = {
    "ST": "tracker reference (ST)",
    "GT": "partial gold (GT)",
    "GT+ST": "partial gold over the tracker reference (GT+ST)",
}
"""What labels are where scores against them are shown: ST is the result of a public tracker, GT covers some cells."""
Architecture = Literal["nano", "nano2", "vit_t", "vit_b", "vit_l", "vit_h"]
"""``nano`` is the first edition of the packaged model and ``nano2`` the second, in a recipe and in an encoder key."""
Precision = Literal["float32", "bfloat16", "float16"]
EmbeddingSource = Literal["", "micro-sam"]
NormaliseMethod = Literal["percentile", "minmax", "clahe"]
SplitMode = Literal["frames", "sequence", "folds"]
LOOKS = ("look", "copies")
"""Ways to group stills that look at their pixels."""


# no user or key before the bucket, no query behind: credentials have no place in a recipe
_S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*")


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """``[dataset]``: which frames. ``path`` is absolute or relative to the store's folder."""

    reader: ReaderName = "ctc"
    path: str
    sequences: tuple[str, ...] = ()
    labels: Labels = "ST"
    field_of_interest: int = 0
    offset: float = 0.0
    pixel_size_um: float | None = None
    axis: str = ""
    channel: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.reader, ReaderName, "dataset.reader")
        check_choice(self.labels, Labels, "dataset.labels")
        check_range(self.field_of_interest, 0, 10_000, "dataset.field_of_interest (px)")
        if self.pixel_size_um is not None and not self.pixel_size_um > 0:
            raise RecipeError(f"dataset.pixel_size_um is {self.pixel_size_um}, expected a positive number")

    @property
    def stills(self) -> bool:
        """Whether frames are single images, not a sequence in time."""
        return self.reader == "folder" and not self.axis


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """``[encoder]``: the frozen SAM.

    ``checkpoint`` is a file, or empty for the one that is fetched or shipped; ``sha256`` pins its bytes. ``name`` says
    which weights of :mod:`hela_store.sam.registry` these are; empty for the plain ones of the architecture, or for a
    file of unknown weights. ``adapter`` is a fine-tuning run of this store that adapted the encoder, or empty;
    ``adapter_sha256`` pins what it learned. ``source`` is the tool whose embeddings were imported, or empty for
    embeddings made here. ``cut`` is no part of a ``store.toml``: the tokens after that block instead of whole
    embeddings, 0 for the views themselves.
    """

    architecture: Architecture = "nano"
    name: str = ""
    checkpoint: str = ""
    sha256: str = ""
    precision: Precision = "float32"
    adapter: str = ""
    adapter_sha256: str = ""
    source: EmbeddingSource = ""
    cut: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.architecture, Architecture, "encoder.architecture")
        check_choice(self.precision, Precision, "encoder.precision")
        check_choice(self.source, EmbeddingSource, "encoder.source")
        if bool(self.adapter) != bool(self.adapter_sha256):
            raise RecipeError(
                "encoder.adapter and encoder.adapter_sha256 belong together; `hela-store embed --adapter` prints both"
            )
        if self.cut is not None:
            if self.architecture not in BLOCKS:
                raise RecipeError(
                    f"{self.architecture} cannot be cut, so its encoder cannot be adapted either: its stages differ in "
                    "grid and width; leave --cut out, fine-tune the decoder (finetune without --adapt, or --adapt "
                    f"decoder), or make a store with one of {', '.join(BLOCKS)}"
                )
            check_range(self.cut, 0, BLOCKS[self.architecture] - 1, f"cut of {self.architecture} (layers)")
            if self.adapter:
                raise RecipeError("tokens are cached of the encoder as it came; take encoder.adapter out of store.toml")
        if self.source:
            self._check_imported()

    def _check_imported(self) -> None:
        if self.precision != "float32":
            raise RecipeError(
                f"encoder.precision is {self.precision}, {self.source} encodes in float32; set that in store.toml"
            )
        if self.adapter or self.cut is not None:
            raise RecipeError(
                f"of {self.source} there are the embeddings of a whole encoder as it came; leave --cut, --adapter and "
                "encoder.adapter out, or take encoder.source out of store.toml"
            )

    def check_encodes(self) -> None:
        """Raise RecipeError where the embeddings are another tool's, of images prepared in another way than ours."""
        if self.source:
            raise RecipeError(
                f"encoder.source is {self.source}, which prepares images in its own way: nothing here encodes as it "
                f"does; bring in what it encoded with `hela-store import {self.source}`, or take encoder.source out of "
                "store.toml to encode here, under another key"
            )

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Return a view's stored shape: (256, 64, 64), CHW, of a whole encoder; (64, 64, C), HWC, of a cut one."""
        return (256, 64, 64) if self.cut is None else (64, 64, TOKEN_WIDTH[self.architecture])


@dataclass(frozen=True, kw_only=True)
class NormaliseRecipe:
    """``[normalise]``: from acquired counts to what the encoder sees (0..255); percentiles in percent."""

    method: NormaliseMethod = "percentile"
    low: float = 0.5
    high: float = 99.8

    def __post_init__(self) -> None:
        check_choice(self.method, NormaliseMethod, "normalise.method")
        check_range(self.low, 0, 100, "normalise.low (percent)")
        check_range(self.high, 0, 100, "normalise.high (percent)")
        if self.low >= self.high:
            raise RecipeError(f"normalise.low ({self.low}) must be below normalise.high ({self.high})")


@dataclass(frozen=True, kw_only=True)
class ViewsRecipe:
    """``[views]``: edge of a square tile in px, 0 for whole frames; least overlap of neighbouring tiles in px."""

    tile: int = 0
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.tile != 0:
            check_range(self.tile, 64, 4096, "views.tile (px; 0 for whole frames)")
            check_range(self.overlap, 0, self.tile - 1, "views.overlap (px)")


@dataclass(frozen=True, kw_only=True)
class ArraysRecipe:
    """``[arrays]``: how embeddings are stored, and where: ``data`` is empty or ``"s3://bucket/prefix"``.

    ``cache_mib``: of what is read from there, copies of at most so many MiB are kept beside the recipe; 0 for none.
    ``shard``: how many embeddings one object holds; 0 for an object each.
    """

    dtype: Literal["float16", "float32"] = "float16"
    codec: str = "zstd"
    data: str = ""
    cache_mib: int = 0
    shard: int = 0

    def __post_init__(self) -> None:
        check_choice(self.dtype, Literal["float16", "float32"], "arrays.dtype")
        check_range(self.cache_mib, 0, 1 << 30, "arrays.cache_mib")
        if self.shard != 0:
            check_range(self.shard, 2, 4096, "arrays.shard (views; 0 for an object each)")
        if self.data and not _S3_URL.fullmatch(self.data):
            raise RecipeError(f'arrays.data is {self.data!r}, expected "s3://bucket/prefix", or "" for arrays.zarr')


@dataclass(frozen=True, kw_only=True)
class SplitRecipe:
    """``[split]``: frame ranges of blocks (``frames``), whole sequences (``sequence``), or k-fold in time (``folds``).

    ``frames``: ``train``, ``val``, ``test`` are ``"0-54"`` (frame numbers in every sequence; several ranges by comma).
    ``sequence``: ``train`` and ``test`` name sequences; validation is cut from the end of the training sequences,
    ``val_share`` of their frames after a gap of ``gap`` frames.
    ``folds``: every sequence is cut into ``folds`` blocks in time, number ``fold`` (from 0) tests, ``val_share`` of the
    frames behind it validate, and ``gap`` frames around both are unused.
    ``group``: which stills belong together and go whole into one block of the default split, and are counted once by
    intervals: ``"look"``, ``"copies"``, or ``"name:REGEX"`` for the part of the frame's name that the expression
    finds; empty for none.
    """

    mode: SplitMode = "frames"
    train: str = ""
    val: str = ""
    test: str = ""
    val_share: float = 0.1
    gap: int = 3
    folds: int = 5
    fold: int = 0
    group: str = ""

    def __post_init__(self) -> None:
        check_choice(self.mode, SplitMode, "split.mode")
        check_range(self.folds, 2, 1000, "split.folds")
        check_range(self.fold, 0, self.folds - 1, f"split.fold (of {self.folds})")
        check_range(self.val_share, 0, 0.5, "split.val_share")
        check_range(self.gap, 0, 10_000, "split.gap (frames)")
        check_group(self.group)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The whole of ``store.toml``."""

    name: str
    dataset: DatasetRecipe
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    normalise: NormaliseRecipe = field(default_factory=NormaliseRecipe)
    views: ViewsRecipe = field(default_factory=ViewsRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    arrays: ArraysRecipe = field(default_factory=ArraysRecipe)
    split: SplitRecipe = field(default_factory=SplitRecipe)
    format: int = FORMAT


SECTIONS: dict[str, type] = {
    "dataset": DatasetRecipe,
    "encoder": EncoderRecipe,
    "normalise": NormaliseRecipe,
    "views": ViewsRecipe,
    "augment": AugmentRecipe,
    "arrays": ArraysRecipe,
    "split": SplitRecipe,
}


def check_group(group: str, where: str = "split.group") -> None:
    """Raise RecipeError where that is no way to group stills."""
    if group in ("", *LOOKS):
        return
    kind, _, pattern = group.partition(":")
    if kind != "name" or not pattern:
        raise RecipeError(f"{where} is {group!r}, expected look, copies, name:REGEX such as name:^[^_]+, or nothing")
    try:
        re.compile(pattern)
    except re.error as error:
        raise RecipeError(f"{where} is {group!r}: {pattern!r} is no regular expression: {error}") from None


def from_mapping(cls: type, values: dict[str, Any], where: str) -> Any:
    """Build a config dataclass from plain values.

    Raises
    ------
    RecipeError
        Unknown key (the nearest known one is named), a value of the wrong type, or one missing.
    """
    known = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
            raise RecipeError(f"unknown key {key!r} in {where}{hint}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, default in _tables(cls).items():
        if key in plain:
            plain[key] = _from_table(default, plain[key], f"{where} {key}")
    for key, value in plain.items():
        _check_type(known[key].type, value, f"{where}.{key}")
    try:
        return cls(**plain)
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _tables(cls: type) -> dict[str, Any]:
    """Return the default of every field of a section that is a table itself."""
    if cls is Recipe:
        return {}
    defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(cls)}
    return {name: value for name, value in defaults.items() if is_dataclass(value)}


def _from_table(default: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is {values!r}, expected a table such as {{ probability = 0.5 }}")
    kept = {f.name: getattr(default, f.name) for f in fields(default)}
    return from_mapping(type(default), kept | values, where)


def _check_type(annotation: Any, value: Any, where: str) -> None:
    names: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    for name, kind in names.items():
        if str(annotation).split(" ")[0] != name or value is None:
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and name != "bool"):
            raise RecipeError(f"{where} is {value!r}, expected {name}")


def parse_recipe(text: str, where: str = "store.toml") -> Recipe:
    """Read a recipe from TOML text.

    Raises
    ------
    StoreError
        The text is not TOML, or was written by a newer version of this package.
    RecipeError
        A key or value is wrong.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{where} is damaged: {error}; restore it from version control or make a new store") from None
    version = values.get("format")
    if not isinstance(version, int):
        raise StoreError(f"{where} has no 'format' number; is it the store.toml of a hela-store?")
    if version > FORMAT:
        raise StoreError(f"{where} has format {version}, this version reads up to {FORMAT}; upgrade hela-store")
    sections = {}
    for key, value in values.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise RecipeError(f"{where}: {key} must be a table, [{key}]")
        sections[key] = from_mapping(SECTIONS[key], value, f"{where} [{key}]") if key in SECTIONS else value
    recipe: Recipe = from_mapping(Recipe, sections, where)
    if recipe.encoder.cut is not None:
        raise RecipeError(
            f"{where} [encoder] has cut = {recipe.encoder.cut}; take it out and run `hela-store embed --cut "
            f"{recipe.encoder.cut}`, which stores these tokens beside the embeddings"
        )
    return recipe


def encoder_key(recipe: Recipe) -> str:
    """Return the name of the embeddings this recipe asks for: all that decides their values, digested.

    Covers checkpoint sha256, adapter, architecture, precision, normalisation, resize, stored dtype, rounding and, where
    the encoder is cut, after which block; where they were imported, from which tool.
    """
    codec, normalise = recipe.arrays.codec, recipe.normalise
    rounding = codec.partition(":")[2] if codec.startswith("bitround") else codec if codec == "int8" else ""
    parts = (
        recipe.encoder.sha256,
        recipe.encoder.adapter_sha256,
        recipe.encoder.architecture,
        recipe.encoder.precision,
        normalise.method,
        float(normalise.low),
        float(normalise.high),
        RESIZE,
        recipe.arrays.dtype,
        rounding,
    )
    cut, source = recipe.encoder.cut, recipe.encoder.source
    if source:
        return f"{recipe.encoder.architecture}-{source}-{digest(*parts, source)[:12]}"
    if cut is not None:
        return f"{recipe.encoder.architecture}-cut{cut}-{digest(*parts, cut)[:12]}"
    return f"{recipe.encoder.architecture}-{digest(*parts)[:12]}"


def load_recipe(path: Path) -> Recipe:
    """Read ``store.toml``; raises as :func:`parse_recipe`, and StoreError if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"no store at {path.parent}: {path.name} is missing; make one with `hela-store new`") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is damaged: {error}; restore it from version control or make a new store") from None
    if not text.endswith("\n"):  # what is left of it would parse, with defaults for the rest
        raise StoreError(
            f"{path} seems cut short: its last line has no end; restore it, or end that line if it was edited by hand"
        )
    return parse_recipe(text, str(path))
