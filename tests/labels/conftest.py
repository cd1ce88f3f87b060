"""A small ingested store, whose labels tests change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hela_store.base.progress import silent
from hela_store.embedding.ingest import ingest
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 4 drawn frames of 192x256 px, ingested and not embedded. Not to be changed."""
    path = tmp_path_factory.mktemp("labels") / "store"
    drawn = SyntheticConfig(frames=4, shape=(192, 256), cells=12)
    blocks = {"train_frames": "0-1", "val_frames": "2-2", "test_frames": "3-3"}
    new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    ingest(Store.open(path), silent)
    return path


@pytest.fixture
def plain(ingested: Path, tmp_path: Path) -> Store:
    """Return a private copy of it."""
    shutil.copytree(ingested, tmp_path / "store")
    return Store.open(tmp_path / "store")
