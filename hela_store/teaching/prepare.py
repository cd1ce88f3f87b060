"""From a folder of frames to a page: make the store, and encode frames ahead while the first ones are labelled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import HelaError, StoreError
from hela_store.recipe.recipe import RECIPE_FILE, Recipe
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

from .background import Background
from .overview import Overview

POLL = 0.3
"""Seconds between two looks at whether the first frame is there."""


def store_name(frames: Path) -> str:
    """Return the name of the store that is made of a folder of frames."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", frames.resolve().stem).strip("-") or "frames"


def store_of_frames(frames: Path, path: Path, *, cache_dir: Path | None = None, progress: Progress = silent) -> Store:
    """Return the store of a folder of frames; it is made with the defaults of ``hela-store new`` where it is not there.

    Parameters
    ----------
    frames : Path
        The folder, or a stack.
    path : Path
        Folder of the store.
    cache_dir : Path, optional
        Where official checkpoints are fetched to.
    progress : callable

    Raises
    ------
    DatasetError, RecipeError, SplitError, CheckpointError
        The frames cannot be used as they are.
    StoreError
        There is a store of other frames.
    """
    if not (path / RECIPE_FILE).exists():
        return new(path, NewConfig.of(dataset=str(frames)), progress, cache_dir=cache_dir).store
    store = Store.open(path)
    if (path / store.recipe.dataset.path).resolve() != frames.resolve():
        raise StoreError(
            f"{path} is a store of other frames, {store.recipe.dataset.path}; teach it with `hela-store teach`, or "
            f"give these frames another name with `hela-store new NAME --dataset {frames}`"
        )
    return store


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
