"""A small store with several cells a frame, and lessons on it: a shared one, and one for each test that changes labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.lesson import Lesson
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 4 synthetic frames of 224x256 px with 13 cells each, embedded with nano. Not to be changed."""
    path = tmp_path_factory.mktemp("teach") / "crowded"
    drawn = SyntheticConfig(frames=4, shape=(224, 256), cells=30)
    blocks = {"train_frames": "0-1", "val_frames": "2-2", "test_frames": "3-3"}
    new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    embed(Store.open(path), EmbedConfig())
    return path


@pytest.fixture
def store(crowded: Path, tmp_path: Path) -> Store:
    """Return a private copy of it."""
    shutil.copytree(crowded, tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture(scope="module")
def shown(crowded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    """Return a lesson whose labels are not to be changed."""
    path = tmp_path_factory.mktemp("shown") / "store"
    shutil.copytree(crowded, path)
    lesson = Lesson(Store.open(path), TeachConfig(who="ann", device="cpu"))
    yield lesson
    lesson.close()


@pytest.fixture
def lesson(store: Store) -> Iterator[Lesson]:
    """Return a lesson of its own."""
    lesson = Lesson(store, TeachConfig(who="ann", device="cpu", every=1000, next="doubt"))
    yield lesson
    lesson.close()
