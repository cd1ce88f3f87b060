"""What several tests share: one small embedded store, made once and copied for whoever changes it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from hela_store.embed import EmbedConfig, embed
from hela_store.new import NewConfig, SyntheticConfig, new
from hela_store.store import Store

# a job started in the background ignores Ctrl-C, and so would every process the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real frames; skip where it is absent."""
    path = Path(os.environ.get("HELA_REALDATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real frames at {path}; set HELA_REALDATA")
    return path


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 8 synthetic frames of 192x256 px, embedded with nano. Not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "small"
    drawn = SyntheticConfig(frames=8, shape=(192, 256), cells=10)
    blocks = {"train_frames": "0-3", "val_frames": "5-5", "test_frames": "7-7"}
    new(path, NewConfig(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    embed(Store.open(path), EmbedConfig())
    return path


@pytest.fixture
def store(embedded: Path, tmp_path: Path) -> Store:
    """Return a private copy of the small embedded store."""
    shutil.copytree(embedded, tmp_path / "store")
    return Store.open(tmp_path / "store")
