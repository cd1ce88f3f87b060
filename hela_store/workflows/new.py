"""Say what `hela-store new` does: look at the data, decide what can be decided from it, write a commented recipe."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hela_store.augment.ranges import AugmentRecipe, paper_augment
from hela_store.base.progress import Progress, silent
from hela_store.datasets import DatasetSummary, inspect
from hela_store.embedding.plan import count_views, varied_frames
from hela_store.errors import AlreadyComplete, HelaError, StoreError
from hela_store.images.geometry import EMBEDDING_POSITIONS, auto_tile, overlap_for, tile_rectangles
from hela_store.recipe.recipe import (
    RECIPE_FILE,
    UNTRAINED,
    ArraysRecipe,
    EncoderRecipe,
    NormaliseRecipe,
    Recipe,
    SplitRecipe,
    ViewsRecipe,
    load_recipe,
    parse_recipe,
)
from hela_store.recipe.splits import (
    BLOCKS,
    SAME_NUCLEI,
    FrameKey,
    assign,
    default_split,
    format_ranges,
    frame_counts,
    protocol,
)
from hela_store.recipe.toml import recipe_text
from hela_store.sam.registry import in_domain
from hela_store.store.new_store import new_store
from hela_store.store.store import Store

from .drawn import DATA_FOLDER, SYNTHETIC_PIXEL_UM, drawn, is_drawn
from .findings import findings_of
from .new_config import SYNTHETIC, NewConfig
from .new_groups import group_stills

PRESETS: dict[str, Callable[..., AugmentRecipe]] = {"default": AugmentRecipe, "paper": paper_augment}
# Rule "blocks of time" of the benchmarks, by data set and frame numbers; other sequences get the same proportions.
KNOWN_BLOCKS = {
    ("DIC-C2DH-HeLa", tuple(range(40))): SplitRecipe(train="0-21", val="24-28", test="31-39"),
    ("Fluo-N2DL-HeLa", tuple(range(92))): SplitRecipe(train="0-54", val="58-66", test="70-91"),
}


EncoderOf = Callable[[], EncoderRecipe]
"""Chooses the encoder; it may have to fetch it, so that comes after the look at the data."""


@dataclass(frozen=True, kw_only=True)
class NewReport:
    """Findings and decisions of ``new``.

    Attributes
    ----------
    store : Store
    summary : DatasetSummary
    blocks : dict of str to int
        Frames in ``train``, ``val``, ``test`` and ``gap``.
    trained : bool
        False where the encoder is a nano that ships without trained weights.
    stills : str
        How many stills are copies of another, and how stills are grouped; empty where they were not compared.
    protocol : str
        What scores on the test block mean, such as ``"train 01, test 02"``.
    planned : int
        Views that `embed` will encode: tiles of all frames, with their variants.
    """

    store: Store
    summary: DatasetSummary
    blocks: dict[str, int]
    trained: bool
    stills: str = ""
    protocol: str = ""
    planned: int = 0

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
            "views_planned": self.planned,
            "encoder": {
                "name": recipe.encoder.name or recipe.encoder.architecture,
                "architecture": recipe.encoder.architecture,
                "key": self.store.key,
                "trained": self.trained,
                "in_domain": in_domain(recipe),
            },
            "split": self.blocks,
            "group": recipe.split.group,
            "stills": self.stills,
            "protocol": self.protocol,
            "blank": list(summary.blank),
            "warnings": list(summary.warnings),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return it as lines of (what, value)."""
        recipe = self.store.recipe
        whole, tiled = self.positions(0), self.positions(recipe.views.tile)
        spans = "" if whole is None or tiled is None else f"; the median cell spans {tiled:.1f} embedding positions"
        if recipe.views.tile:
            spans += "" if whole is None else f" ({whole:.1f} without tiles)"
            views = f"{self.planned}: tiles of {recipe.views.tile} px, overlap {recipe.views.overlap} px{spans}"
        else:
            views = f"{self.planned}: whole frames{spans}"
        encoder = (recipe.encoder.name or recipe.encoder.architecture) + (
            "" if self.trained else " (untrained: random weights)"
        )
        rows = [("store", str(self.store.path)), *findings_of(self.summary, recipe.dataset)]
        rows += [("stills", self.stills)] if self.stills else []
        split = frame_counts(self.blocks) + (f"; protocol: {self.protocol}" if self.protocol else "")
        rows += [("views", views), ("encoder", f"{encoder}, key {self.store.key}"), ("split", split)]
        more = [("warning", in_domain(recipe)), ("warning", self._idle_axis()), ("", self._advice())]
        return rows + [row for row in more if row[1]]

    def _idle_axis(self) -> str:
        """Say that an axis was named where no file is a stack."""
        axis = self.store.recipe.dataset.axis
        stacks = any(len(times) > 1 for times in self.summary.times.values())
        return f"--axis {axis} was given, but no file is a stack; each file is one frame" if axis and not stacks else ""

    def _advice(self) -> str:
        """Return how to test on other nuclei, where there is a second sequence for that."""
        names = sorted(self.summary.times)
        if SAME_NUCLEI not in self.protocol or len(names) < 2:
            return ""
        asked = f"--train-sequence {names[0]} --test-sequence {names[1]}"
        return f"to test on nuclei that were not trained on: `hela-store new ... {asked}`"


def new(
    path: Path | str, config: NewConfig, progress: Progress = silent, *, cache_dir: Path | None = None
) -> NewReport:
    """Make a store in ``path``: a commented ``store.toml`` (and, for ``"synthetic"``, the frames it reads).

    Overwrites nothing, and leaves nothing behind where it fails.

    Parameters
    ----------
    path : the store's folder
    config : what to make a store of
    progress : shown while frames are drawn or weights are fetched
    cache_dir : where the weights of an encoder are fetched to whose sha256 is not known before

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
    encoder_of = partial(_encoder, config, path, cache_dir, progress)
    if (path / RECIPE_FILE).exists():
        raise _there(path, config, encoder_of)
    if config.dataset == SYNTHETIC:
        with drawn(path, _sequence_names(config), config.synthetic, config.data.pixel_size_um, progress):
            return _make(path, path / DATA_FOLDER, _as_drawn(config), encoder_of, progress)
    return _make(path, _absolute(config.dataset), config, encoder_of, progress)


def _there(path: Path, config: NewConfig, encoder_of: EncoderOf) -> StoreError:
    """Return what a store that is there already is: the one asked for, made before, or another."""
    data, same = _absolute(config.dataset), True
    try:
        if config.dataset == SYNTHETIC:
            data = path / DATA_FOLDER
            same = is_drawn(data, _sequence_names(config), config.synthetic, config.data.pixel_size_um)
            config = _as_drawn(config)
        text = _planned(path, data, config, encoder_of).text if same else ""
        # values only: another version of this package may have written other comments
        same = same and parse_recipe(text) == load_recipe(path / RECIPE_FILE)
    except (HelaError, OSError):
        same = False
    if same:
        return AlreadyComplete(
            f"already complete: the store {path} was made with the same choices before, and nothing was changed"
        )
    return StoreError(f"{path} is a store already; choose another name, or edit its {RECIPE_FILE}")


def _make(path: Path, data: Path, config: NewConfig, encoder_of: EncoderOf, progress: Progress) -> NewReport:
    planned = _planned(path, data, config, encoder_of, progress)
    return NewReport(
        store=new_store(path, planned.text),
        summary=planned.summary,
        blocks=planned.blocks,
        trained=planned.trained,
        stills=planned.stills,
        protocol=planned.protocol,
        planned=planned.views,
    )


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A recipe's text and what else a report says."""

    text: str
    summary: DatasetSummary
    blocks: dict[str, int]
    trained: bool
    stills: str
    protocol: str
    views: int


def _planned(path: Path, data: Path, config: NewConfig, encoder_of: EncoderOf, progress: Progress = silent) -> _Planned:
    """Look at the data and decide; write nothing."""
    sequences = config.data.sequences or config.split.sequences
    summary = inspect(
        data,
        sequences=sequences,
        labels=config.data.labels,
        axis=config.data.axis,
        channel=config.data.channel,
        pixel_size_um=config.data.pixel_size_um,
        progress=progress,
    )
    dataset = replace(summary.config, path=_stored_path(data, path))
    if config.data.offset is not None:
        dataset = replace(dataset, offset=float(config.data.offset))
    if config.data.field_of_interest is not None:
        dataset = replace(dataset, field_of_interest=config.data.field_of_interest)
    stills = dataset.stills
    split = _split(config, summary, data.resolve().name, stills)
    entries = summary.entries
    grouping = group_stills(dataset, split, entries, config.split.group, progress)
    split = replace(split, group=grouping.by)
    frames: list[FrameKey] = [(e.id, e.sequence, e.time) for e in entries]
    placed = assign(split, frames, stills, grouping.of)
    blocks = Counter(placed.values())
    encoder = encoder_of()
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
    varied = varied_frames(recipe, frames, lambda: grouping.of)
    findings = [f"{what}: {value}" for what, value in findings_of(summary, dataset)]
    findings += [f"stills: {grouping.text}"] if grouping.text else []
    return _Planned(
        text=recipe_text(recipe, findings, stills),
        summary=summary,
        blocks={name: blocks[name] for name in (*BLOCKS, "gap")},
        trained=encoder.sha256 != UNTRAINED,
        stills=grouping.text,
        protocol="" if stills else protocol(placed, {e.id: e.sequence for e in entries}),
        views=count_views(recipe, {e.id: e.image.shape for e in entries}, varied),
    )


def _sequence_names(config: NewConfig) -> tuple[str, ...]:
    return config.data.sequences or config.split.sequences or ("01",)


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
    return ArraysRecipe(codec=config.arrays.codec, data=config.arrays.data, shard=config.arrays.shard)


def _encoder(config: NewConfig, store: Path, cache_dir: Path | None, progress: Progress) -> EncoderRecipe:
    """Return the encoder with the sum that pins it; a checkpoint file is checked."""
    from hela_store.sam.choice import choose_encoder

    asked = config.encoder
    file = _stored_path(_absolute(asked.checkpoint), store) if asked.checkpoint else ""
    how: dict[str, Any] = {"precision": asked.precision, "cache_dir": cache_dir, "progress": progress}
    return choose_encoder(asked.encoder, file, base=store, **how)


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
