"""Which store a command means."""

from __future__ import annotations

from pathlib import Path

import pytest
from hela_store_cli.options import find_store, new_folder

from hela_store.errors import StoreError


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "store.toml").write_text("format = 1\n")
    return path


def test_a_path_or_a_name(tmp_path: Path) -> None:
    fluo, other = make(tmp_path / "stores/fluo"), make(tmp_path / "elsewhere/other")
    assert find_store("fluo", tmp_path) == fluo
    assert find_store("stores/fluo", tmp_path) == fluo
    assert find_store("stores/fluo/store.toml", tmp_path) == fluo
    assert find_store(str(other), tmp_path) == other


def test_a_folder_without_recipe_does_not_hide_a_name(tmp_path: Path) -> None:
    (tmp_path / "fluo").mkdir()
    fluo = make(tmp_path / "stores/fluo")
    assert find_store("fluo", tmp_path) == fluo


def test_without_a_name_the_nearest_upward(tmp_path: Path) -> None:
    fluo = make(tmp_path / "stores/fluo")
    make(tmp_path / "stores/dic")
    below = fluo / "runs/x"
    below.mkdir(parents=True)
    assert find_store(None, below) == fluo


def test_without_a_name_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store under .*hela-store new"):
        find_store(None, tmp_path)
    fluo = make(tmp_path / "stores/fluo")
    assert find_store(None, tmp_path) == fluo
    make(tmp_path / "stores/dic")
    with pytest.raises(StoreError, match=r"several stores under .*there are: dic, fluo; choose one with --store"):
        find_store(None, tmp_path)


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    make(tmp_path / "stores/fluo")
    with pytest.raises(StoreError, match=r"no store 'flou'.*there are: fluo"):
        find_store("flou", tmp_path)


def test_where_a_new_store_goes(tmp_path: Path) -> None:
    assert new_folder("fluo", tmp_path) == tmp_path / "stores/fluo"
    assert new_folder("a/b", tmp_path) == tmp_path / "a/b"
    assert new_folder("./b", tmp_path) == tmp_path / "b"
    assert new_folder("/abs", tmp_path) == Path("/abs")
