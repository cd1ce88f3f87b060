"""A lesson on the small store: one for all tests that only ask, and one of its own for each test that changes labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.lesson import Lesson


@pytest.fixture(scope="module")
def shown(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    """Return a lesson whose labels are not to be changed."""
    path = tmp_path_factory.mktemp("teach") / "store"
    shutil.copytree(embedded, path)
    lesson = Lesson(Store.open(path), TeachConfig(who="ann", device="cpu"))
    yield lesson
    lesson.close()


@pytest.fixture
def lesson(store: Store) -> Iterator[Lesson]:
    """Return a lesson of its own."""
    lesson = Lesson(store, TeachConfig(who="ann", device="cpu", every=1000))
    yield lesson
    lesson.close()
