"""What `hela-store new` does: look at the data, decide what can be decided from it, write a commented recipe."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hela_store.augment.ranges import AugmentRecipe, paper_augment
from hela_store.base.files import explain_os_errors
from hela_store.base.progress import Progress, silent
from hela_store.base.sections import check_names, section
from hela_store.datasets import DatasetSummary, inspect, open_dataset
from hela_store.errors import RecipeError, StoreError
from hela_store.images.geometry import EMBEDDING_POSITIONS, auto_tile, overlap_for, tile_rectangles
from hela_store.recipe.recipe import (
    UNTRAINED,
    Architecture,
    ArraysRecipe,
    EncoderRecipe,
    Labels,
    NormaliseMethod,
    NormaliseRecipe,
    Precision,
    Recipe,
    SplitRecipe,
    ViewsRecipe,
)
from hela_store.recipe.splits import BLOCKS, FrameKey, assign, default_split, format_ranges
from hela_store.recipe.toml import recipe_text
from hela_store.store.store import RECIPE_FILE, Store, new_store

from .findings import findings_of

AugmentPreset = Literal["default", "paper"]
PRESETS: dict[str, Callable[..., AugmentRecipe]] = {"default": AugmentRecipe, "paper": paper_augment}
SYNTHETIC = "synthetic"
SYNTHETIC_PIXEL_UM = 0.645
DATA_FOLDER = "data"
# Measuring rule 1 of the benchmarks, by data set and frame numbers; other sequences get the same proportions.
KNOWN_BLOCKS = {
    ("DIC-C2DH-HeLa", tuple(range(40))): SplitRecipe(train="0-21", val="24-28", test="31-39"),
    ("Fluo-N2DL-HeLa", tuple(range(92))): SplitRecipe(train="0-54", val="58-66", test="70-91"),
}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """The sequence that is drawn where no data set is given; ``shape`` is (rows, columns) px."""

    frames: int = 24
    shape: tuple[int, int] = (512, 640)
    cells: int = 36
    seed: int = 0


NAMES = {
    "dataset": "dataset",
    "sequences": "data.sequences",
    "labels": "data.labels",
    "axis": "data.axis",
    "channel": "data.channel",
    "pixel_size_um": "data.pixel_size_um",
    "offset": "data.offset",
    "field_of_interest": "data.field_of_interest",
    "encoder": "encoder.architecture",
    "checkpoint": "encoder.checkpoint",
    "precision": "encoder.precision",
    "normalise": "normalise",
    "tile": "tiles.tile",
    "overlap": "tiles.overlap",
    "codec": "arrays.codec",
    "data": "arrays.data",
    "variants": "augment.variants",
    "augment": "augment.preset",
    "train_sequences": "split.train_sequences",
    "test_sequences": "split.test_sequences",
    "train_frames": "split.train_frames",
    "val_frames": "split.val_frames",
    "test_frames": "split.test_frames",
    "synthetic": "synthetic",
}
"""Where each setting lies, by the flat name it has on the command line."""


@dataclass(frozen=True, kw_only=True)
class NewData:
    """How the data set is read.

    Attributes
    ----------
    sequences : which to take; all where empty
    labels : as in the recipe; the most complete labels where None
    axis : frames lie along this axis of stacks
    channel : of several
    pixel_size_um : from metadata or a known data set's name where None
    offset : black level in counts; estimated where None
    field_of_interest : px; 0 or a known data set's where None
    """

    sequences: tuple[str, ...] = ()
    labels: Labels | None = None
    axis: str = ""
    channel: int | None = None
    pixel_size_um: float | None = None
    offset: float | None = None
    field_of_interest: int | None = None


@dataclass(frozen=True, kw_only=True)
class NewEncoder:
    """Which SAM encodes the views; an empty ``checkpoint`` is the shipped or official one."""

    architecture: Architecture = "nano"
    checkpoint: str = ""
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class NewTiles:
    """How frames are cut.

    Attributes
    ----------
    tile : ``"auto"``, ``"none"`` or an edge length in px
    overlap : px; from the size of the cells where None
    """

    tile: str = "auto"
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.tile not in ("auto", "none") and not self.tile.isdecimal():
            raise RecipeError(f"tile is {self.tile!r}, expected auto, none or an edge length in px such as 512")


@dataclass(frozen=True, kw_only=True)
class NewArrays:
    """How arrays are stored, and where: ``data`` is empty for beside the recipe, or ``"s3://bucket/prefix"``."""

    codec: str = "zstd"
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class NewAugment:
    """How many augmented variants every view gets, and which.

    Attributes
    ----------
    variants : of every view
    preset : ``"default"``, or ``"paper"`` for the study's way (:func:`hela_store.augment.ranges.paper_augment`)
    """

    variants: int = 0
    preset: AugmentPreset = "default"


@dataclass(frozen=True, kw_only=True)
class NewSplit:
    """Which frames train, validate and test; blocks in time where nothing is given.

    Attributes
    ----------
    train_sequences, test_sequences : split by sequence; validation is cut from the end of the training sequences
    train_frames, val_frames, test_frames : split by frame numbers, e.g. ``"0-54"``
    """

    train_sequences: tuple[str, ...] = ()
    test_sequences: tuple[str, ...] = ()
    train_frames: str = ""
    val_frames: str = ""
    test_frames: str = ""

    def __post_init__(self) -> None:
        by_sequence = self.train_sequences or self.test_sequences
        if by_sequence and (self.train_frames or self.val_frames or self.test_frames):
            raise RecipeError("the split is given by sequence and by frames; give one of the two")
        if by_sequence and not self.train_sequences:
            raise RecipeError("a test sequence is given and no training sequence; add --train-sequence")

    @property
    def sequences(self) -> tuple[str, ...]:
        """Every sequence that is named."""
        return tuple(dict.fromkeys([*self.train_sequences, *self.test_sequences]))


@dataclass(frozen=True, kw_only=True)
class NewConfig:
    """What to make a store of.

    Attributes
    ----------
    dataset : a folder, an image stack, or ``"synthetic"``
    normalise : from counts to what the encoder sees
    synthetic : the sequence that is drawn where ``dataset`` is ``"synthetic"``
    data, encoder, tiles, arrays, augment, split : sections
    """

    dataset: str
    normalise: NormaliseMethod = "percentile"
    data: NewData = NewData()
    encoder: NewEncoder = NewEncoder()
    tiles: NewTiles = NewTiles()
    arrays: NewArrays = NewArrays()
    augment: NewAugment = NewAugment()
    split: NewSplit = NewSplit()
    synthetic: SyntheticConfig = SyntheticConfig()

    @classmethod
    def of(cls, **choices: Any) -> NewConfig:
        """Return the configuration with these settings, by flat name (:data:`NAMES`), and defaults for the others.

        Raises
        ------
        RecipeError
            A name that is unknown (the message gives the nearest one), or an impossible value.
        """
        check_names(choices, NAMES, "a new store")
        return cls(
            **section(choices, NAMES, ""),
            data=NewData(**section(choices, NAMES, "data")),
            encoder=NewEncoder(**section(choices, NAMES, "encoder")),
            tiles=NewTiles(**section(choices, NAMES, "tiles")),
            arrays=NewArrays(**section(choices, NAMES, "arrays")),
            augment=NewAugment(**section(choices, NAMES, "augment")),
            split=NewSplit(**section(choices, NAMES, "split")),
        )


@dataclass(frozen=True, kw_only=True)
class NewReport:
    """What was found and decided.

    Attributes
    ----------
    store : Store
    summary : DatasetSummary
    blocks : dict of str to int
        Frames in ``train``, ``val``, ``test`` and ``gap``.
    trained : bool
        False where the encoder is a nano that ships without trained weights.
    """

    store: Store
    summary: DatasetSummary
    blocks: dict[str, int]
    trained: bool

    @property
    def views(self) -> int:
        """Tiles of a frame of the most frequent size."""
        views = self.store.recipe.views
        return len(tile_rectangles(self.summary.shapes[0], views.tile, views.overlap))

    def positions(self, tile: int) -> float | None:
        """Return how many embedding positions the median cell spans in tiles of that size (0: whole frames)."""
        diameter = self.summary.diameter
        return None if diameter is None else _positions(diameter, max(self.summary.shapes, key=max), tile)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; the recipe's sections are in ``store.toml``."""
        summary, recipe = self.summary, self.store.recipe
        return {
            "store": str(self.store.path),
            "reader": recipe.dataset.reader,
            "sequences": {name: len(times) for name, times in summary.times.items()},
            "frames": summary.frames,
            "shapes": [list(shape) for shape in summary.shapes],
            "dtypes": list(summary.dtypes),
            "labels": recipe.dataset.labels,
            "label_sets": list(summary.label_sets),
            "labelled": summary.labelled,
            "offset": recipe.dataset.offset,
            "pixel_size_um": recipe.dataset.pixel_size_um,
            "diameter": summary.diameter,
            "positions_whole": self.positions(0),
            "positions": self.positions(recipe.views.tile),
            "tile": recipe.views.tile,
            "overlap": recipe.views.overlap,
            "views_per_frame": self.views,
            "encoder": {"architecture": recipe.encoder.architecture, "key": self.store.key, "trained": self.trained},
            "split": self.blocks,
            "blank": list(summary.blank),
            "warnings": list(summary.warnings),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return it as lines of (what, value)."""
        recipe = self.store.recipe
        whole, tiled = self.positions(0), self.positions(recipe.views.tile)
        spans = "" if whole is None or tiled is None else f"; the median cell spans {tiled:.1f} embedding positions"
        if recipe.views.tile:
            spans += "" if whole is None else f" ({whole:.1f} whole)"
            views = f"tiles of {recipe.views.tile} px, overlap {recipe.views.overlap} px, {self.views} a frame{spans}"
        else:
            views = f"whole frames{spans}"
        encoder = recipe.encoder.architecture + ("" if self.trained else " (untrained: random weights)")
        split = ", ".join(f"{name} {count}" for name, count in self.blocks.items())
        rows = [("store", str(self.store.path)), *findings_of(self.summary, recipe.dataset)]
        return [*rows, ("views", views), ("encoder", f"{encoder}, key {self.store.key}"), ("split", f"{split} frames")]


def new(path: Path | str, config: NewConfig, progress: Progress = silent) -> NewReport:
    """Make a store in ``path``: a commented ``store.toml`` (and, for ``"synthetic"``, the frames it reads).

    Overwrites nothing, and leaves nothing behind where it fails.

    Raises
    ------
    DatasetError
        The data set cannot be used as it is.
    RecipeError, SplitError, CheckpointError
        A choice is impossible, a block of the split holds no frame, or the checkpoint is not what it was taken for.
    StoreError
        There is a store already; no space, no permission.
    """
    path = _absolute(path)
    if (path / RECIPE_FILE).exists():
        raise StoreError(f"{path} is a store already; choose another name, or edit its {RECIPE_FILE}")
    if config.dataset == SYNTHETIC:
        with _drawn(path, config, progress):
            return _make(path, path / DATA_FOLDER, _as_drawn(config))
    return _make(path, _absolute(config.dataset), config)


def _make(path: Path, data: Path, config: NewConfig) -> NewReport:
    sequences = config.data.sequences or config.split.sequences
    summary = inspect(
        data,
        sequences=sequences,
        labels=config.data.labels,
        axis=config.data.axis,
        channel=config.data.channel,
        pixel_size_um=config.data.pixel_size_um,
    )
    dataset = replace(summary.config, path=_stored_path(data, path))
    if config.data.offset is not None:
        dataset = replace(dataset, offset=float(config.data.offset))
    if config.data.field_of_interest is not None:
        dataset = replace(dataset, field_of_interest=config.data.field_of_interest)
    stills = dataset.stills
    split = _split(config, summary, data.resolve().name, stills)
    frames: list[FrameKey] = [
        (f"{e.sequence}/{e.name}", e.sequence, e.time) for e in open_dataset(dataset, path).entries
    ]
    blocks = Counter(assign(split, frames, stills).values())
    encoder, trained = _encoder(config, path)
    recipe = Recipe(
        name=path.name,
        dataset=dataset,
        encoder=encoder,
        normalise=NormaliseRecipe(method=config.normalise),
        views=_views(config, summary),
        augment=PRESETS[config.augment.preset](variants=config.augment.variants),
        arrays=_arrays(config),
        split=split,
    )
    findings = [f"{what}: {value}" for what, value in findings_of(summary, dataset)]
    store = new_store(path, recipe_text(recipe, findings, stills))
    counts = {name: blocks[name] for name in (*BLOCKS, "gap")}
    return NewReport(store=store, summary=summary, blocks=counts, trained=trained)


@contextmanager
def _drawn(path: Path, config: NewConfig, progress: Progress) -> Iterator[None]:
    """Draw the synthetic sequences into the store's folder; take them away again where the store cannot be made."""
    from hela_store.datasets.synthetic import write_sequence

    names = config.data.sequences or config.split.sequences or ("01",)
    root, existed, drawn = path / DATA_FOLDER, path.exists(), []
    if existed and not path.is_dir():
        raise StoreError(f"{path} cannot be made: there is a file in its place; choose another name")
    what = config.synthetic
    try:
        with explain_os_errors(f"drawing frames into {root}"):
            for name in progress(names, total=len(names), what="draw sequences"):
                write_sequence(
                    root,
                    sequence=name,
                    frames=what.frames,
                    shape=what.shape,
                    cells=what.cells,
                    seed=what.seed,
                    pixel_size_um=config.data.pixel_size_um or SYNTHETIC_PIXEL_UM,
                )
                drawn += [root / name, root / f"{name}_ST"]
        yield
    except BaseException:
        for folder in drawn if existed else [path]:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _as_drawn(config: NewConfig) -> NewConfig:
    from hela_store.datasets.synthetic import OUTER_BAND

    data = replace(
        config.data, field_of_interest=OUTER_BAND, pixel_size_um=config.data.pixel_size_um or SYNTHETIC_PIXEL_UM
    )
    return replace(config, data=data)


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - without "..", but links stay


def _stored_path(data: Path, store: Path) -> str:
    inside = data.resolve()
    if inside.is_relative_to(store.resolve()):
        return inside.relative_to(store.resolve()).as_posix()
    return str(data)


def _views(config: NewConfig, summary: DatasetSummary) -> ViewsRecipe:
    largest = max(summary.shapes, key=max)
    if config.tiles.tile == "auto":
        tile = auto_tile(summary.diameter, largest)
    else:
        tile = 0 if config.tiles.tile == "none" else int(config.tiles.tile)
    overlap = overlap_for(summary.extents, tile) if config.tiles.overlap is None else config.tiles.overlap
    return ViewsRecipe(tile=tile, overlap=overlap)


def _arrays(config: NewConfig) -> ArraysRecipe:
    from hela_store.recipe.codecs import parse_codec

    parse_codec(config.arrays.codec)
    return ArraysRecipe(codec=config.arrays.codec, data=config.arrays.data)


def _encoder(config: NewConfig, store: Path) -> tuple[EncoderRecipe, bool]:
    """Return the encoder with the sum that pins it, and whether it is trained; a checkpoint file is checked."""
    from hela_store.sam.checkpoints import checkpoint_sha256, load_sam_encoder

    file = _stored_path(_absolute(config.encoder.checkpoint), store) if config.encoder.checkpoint else ""
    encoder = EncoderRecipe(
        architecture=config.encoder.architecture, checkpoint=file, precision=config.encoder.precision
    )
    sha256 = load_sam_encoder(encoder, base=store).sha256 if file else checkpoint_sha256(encoder, store)
    return replace(encoder, sha256=sha256), sha256 != UNTRAINED


def _split(config: NewConfig, summary: DatasetSummary, name: str, stills: bool) -> SplitRecipe:
    if config.split.train_sequences:
        train, test = ",".join(config.split.train_sequences), ",".join(config.split.test_sequences)
        return SplitRecipe(mode="sequence", train=train, test=test)
    if config.split.train_frames or config.split.val_frames or config.split.test_frames:
        return SplitRecipe(train=config.split.train_frames, val=config.split.val_frames, test=config.split.test_frames)
    if summary.lapses:
        return _split_lapses(summary)
    times = set(summary.times.values())
    if stills or len(times) > 1:
        return SplitRecipe()  # one set of frame numbers cannot say it; the rule in the recipe's comment decides
    numbers = times.pop()
    known = KNOWN_BLOCKS.get((name, numbers))
    if known:
        return known
    blocks = default_split([(str(time), "", time) for time in numbers])
    train, val, test = (format_ranges(time for time in numbers if blocks[str(time)] == block) for block in BLOCKS)
    return SplitRecipe(train=train, val=val, test=test)


def _split_lapses(summary: DatasetSummary) -> SplitRecipe:
    """Split stills that are a time-lapse into blocks in time, series by series, and other stills by their names."""
    inside = {time: str(number) for number, lapse in enumerate(summary.lapses) for time in lapse}
    every = [time for times in summary.times.values() for time in times]
    blocks = default_split([(str(time), inside[time], time) for time in every if time in inside])
    blocks |= default_split([(str(time), "", time) for time in every if time not in inside], stills=True)
    train, val, test = (format_ranges(time for time in every if blocks[str(time)] == block) for block in BLOCKS)
    return SplitRecipe(train=train, val=val, test=test)


def _positions(diameter: float, shape: tuple[int, int], tile: int) -> float:
    side = max(min(tile, length) if tile else length for length in shape)
    return diameter * EMBEDDING_POSITIONS / side
