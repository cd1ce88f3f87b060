"""From a folder of frames to a page: make the store, and encode frames ahead while the first ones are labelled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hela_store.base.progress import Progress, silent
from hela_store.datasets.ctc import find_sequences, is_sequence
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import DatasetError, HelaError, StoreError
from hela_store.recipe.recipe import RECIPE_FILE, Recipe
from hela_store.recipe.splits import format_ranges
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

from .background import Background
from .overview import Overview

POLL = 0.3
"""Seconds between two looks at whether the first frame is there."""


def store_name(frames: Path, sequence: str = "") -> str:
    """Return the name of the store that is made of a folder of frames, or of one of its sequences."""
    name = f"{frames.resolve().stem}-{sequence}" if sequence else frames.resolve().stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "frames"


def store_of_frames(
    frames: Path, path: Path, *, sequence: str = "", cache_dir: Path | None = None, progress: Progress = silent
) -> Store:
    """Return the store of a folder of frames; it is made with the defaults of ``hela-store new`` where it is not there.

    All frames train where these defaults leave none to train on.

    Parameters
    ----------
    frames : Path
        The folder, or a stack.
    path : Path
        Folder of the store.
    sequence : str
        Name of the sequence that is meant, where the folder holds several; empty for the only one.
    cache_dir : Path, optional
        Where official checkpoints are fetched to.
    progress : callable

    Raises
    ------
    DatasetError, RecipeError, SplitError, CheckpointError
        The frames cannot be used as they are, or nobody said which sequence is meant.
    StoreError
        There is a store of other frames.
    """
    if frames.is_dir() and not sequence and is_sequence(frames):
        frames, sequence = frames.resolve().parent, frames.resolve().name
    if not (path / RECIPE_FILE).exists():
        _check_sequence(frames, sequence)
        about: dict[str, Any] = {"dataset": str(frames), "sequences": (sequence,) if sequence else ()}
        made = new(path, NewConfig.of(**about), progress, cache_dir=cache_dir)
        if made.blocks["train"]:
            return made.store
        # a single frame, or frames so alike that a split keeps them together: what is labelled there has to train
        (path / RECIPE_FILE).unlink()
        every = format_ranges(time for times in made.summary.times.values() for time in times)
        return new(path, NewConfig.of(**about, train_frames=every), progress, cache_dir=cache_dir).store
    store = Store.open(path)
    data = store.recipe.dataset
    if (path / data.path).resolve() != frames.resolve() or (sequence and data.sequences != (sequence,)):
        which = f"{data.path} {', '.join(data.sequences)}".strip()
        raise StoreError(
            f"{path} is a store of other frames, {which}; teach it with `hela-store teach`, or "
            f"give these frames another name with `hela-store new NAME --dataset {frames}`"
        )
    return store


def _check_sequence(frames: Path, sequence: str) -> None:
    """Raise DatasetError where a folder holds several sequences and none is named, or not the named one."""
    found = find_sequences(frames) if frames.is_dir() else []
    if sequence and sequence not in found:
        there = f"it has {', '.join(found)}" if found else "it holds no sequences; leave out --sequence"
        raise DatasetError(f"{frames} has no sequence {sequence!r}; {there}")
    if not sequence and len(found) > 1:
        raise DatasetError(
            f"{frames} has {len(found)} sequences: {', '.join(found)}; choose one, such as --sequence {found[0]}"
        )


def encode_ahead(store: Store, cache_dir: Path | None, told: Callable[[str], None] = lambda text: None) -> Background:
    """Begin to embed what is missing, frames of the training block first; return when one of these can be labelled.

    Raises
    ------
    HelaError
        The frames cannot be embedded.
    """
    background = Background()
    background.start(embed_all, store.path, store.recipe, cache_dir)
    told("encoding the first frame")
    while not (store.known_frames() and Overview(store).training()):
        found = background.result()
        if isinstance(found, HelaError):
            raise found
        if not background.running and not Overview(store).training():
            raise StoreError(f"{store.path} was embedded and has no frame to train on; see `hela-store info`")
        time.sleep(POLL)
    return background


def embed_all(path: Path, recipe: Recipe, cache_dir: Path | None) -> int:
    """Embed the training block, then all other frames; return how many views were encoded."""
    store = Store(path, recipe)
    blocks = [EmbedConfig(splits=("train",), cache_dir=cache_dir), EmbedConfig(cache_dir=cache_dir)]
    return sum(embed(store, config).done_now for config in blocks)
