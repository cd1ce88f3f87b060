"""Settings of a new store, in sections; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hela_store.base.sections import check_names, section
from hela_store.errors import RecipeError
from hela_store.recipe.recipe import Labels, NormaliseMethod, Precision, check_group
from hela_store.sam.registry import find_encoder

AugmentPreset = Literal["default", "paper"]
SYNTHETIC = "synthetic"
"""In place of a data set: a sequence that is drawn."""


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
    "encoder": "encoder.encoder",
    "checkpoint": "encoder.checkpoint",
    "precision": "encoder.precision",
    "normalise": "normalise",
    "tile": "tiles.tile",
    "overlap": "tiles.overlap",
    "codec": "arrays.codec",
    "shard": "arrays.shard",
    "data": "arrays.data",
    "variants": "augment.variants",
    "augment": "augment.preset",
    "train_sequences": "split.train_sequences",
    "test_sequences": "split.test_sequences",
    "train_frames": "split.train_frames",
    "val_frames": "split.val_frames",
    "test_frames": "split.test_frames",
    "group": "split.group",
    "synthetic": "synthetic",
}
"""Where each setting lies, by the flat name it has on the command line."""


@dataclass(frozen=True, kw_only=True)
class NewData:
    """Describe how the data set is read.

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
    """Describe which SAM encodes the views.

    Attributes
    ----------
    encoder : name of an encoder, see :data:`hela_store.sam.registry.ENCODERS`
    checkpoint : file with its weights; empty for the shipped ones, or the ones that are fetched once
    precision : of the encoder
    """

    encoder: str = "nano"
    checkpoint: str = ""
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        find_encoder(self.encoder)


@dataclass(frozen=True, kw_only=True)
class NewTiles:
    """Describe how frames are cut.

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
    """Describe how and where arrays are stored: ``data`` is empty (beside the recipe) or ``"s3://bucket/prefix"``.

    ``shard``: how many embeddings one object holds; 0 for an object each.
    """

    codec: str = "zstd"
    shard: int = 0
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class NewAugment:
    """Describe how many augmented variants every view gets, and which.

    Attributes
    ----------
    variants : of every view
    preset : ``"default"``, or ``"paper"`` for the study's way (:func:`hela_store.augment.ranges.paper_augment`)
    """

    variants: int = 0
    preset: AugmentPreset = "default"


@dataclass(frozen=True, kw_only=True)
class NewSplit:
    """Describe which frames train, validate and test; blocks in time where nothing is given.

    Attributes
    ----------
    train_sequences, test_sequences : split by sequence; validation is cut from the end of the training sequences
    train_frames, val_frames, test_frames : split by frame numbers, e.g. ``"0-54"``
    group : which stills stay together, as ``split.group`` of the recipe, or ``"none"``; ``"auto"``: by what is found
    """

    train_sequences: tuple[str, ...] = ()
    test_sequences: tuple[str, ...] = ()
    train_frames: str = ""
    val_frames: str = ""
    test_frames: str = ""
    group: str = "auto"

    def __post_init__(self) -> None:
        if self.group not in ("auto", "none"):
            check_group(self.group, "group")
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
    """Describe what to make a store of.

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
        RecipeError, CheckpointError
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
