"""A small store with a detector that learnt a little and a detection run of it, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hela_store.detect.run import run_detector
from hela_store.detect.train import DetectorConfig, train_detector
from hela_store.store import Store

QUICK = DetectorConfig(steps=60, batch=2, workers=0, evaluate_every=30, device="cpu")


@pytest.fixture(scope="session")
def detected(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a run of kind ``detector`` and one of kind ``detect`` over all frames. Not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "detected"
    shutil.copytree(embedded, path)
    store = Store.open(path)
    train_detector(store, QUICK)
    run_detector(store, split="all", device="cpu")
    return path


@pytest.fixture
def detector_store(detected: Path, tmp_path: Path) -> Store:
    """Return a private copy of it."""
    shutil.copytree(detected, tmp_path / "detected")
    return Store.open(tmp_path / "detected")
