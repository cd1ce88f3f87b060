"""``segment`` with folders and stacks of any name, and with links in its folder: nothing is written beside ``--out``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hela_store.base.text import visible
from hela_store.datasets.frame import frame_digest
from hela_store.datasets.listing import find_images
from hela_store.datasets.pixels import probe
from hela_store.errors import DatasetError, StoreError
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.results import Item
from hela_store.segmentation.segment import segment
from hela_store.store.store import Store

NAMES = st.sampled_from(
    ["\x1b[31m", "a\nb", "a\\..\\b", "C:", "\u2025", "x" * 255, "\udcff", "a\u202eb", "new", "a b", "細胞", "~"]
) | st.text(st.characters(exclude_characters="/\0", categories=("L", "M", "N", "P", "S", "Z", "Cc", "Cf", "Co", "Cn")), min_size=1, max_size=20).filter(
    lambda name: not name.startswith(".")
)  # fmt: skip


def others(root: Path, without: Path) -> set[bytes]:
    return {os.fsencode(path) for path in root.rglob("*") if without not in (path, *path.parents)}


def config(out: Path) -> SegmentConfig:
    return SegmentConfig(out=out, prompts=DetectedConfig(threshold=0.5), overlay=True)


def frame(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "t001.tif", np.full((40, 50), 1000, np.uint16))
    return folder


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=NAMES)
def test_folders_of_any_name_stay_in_out_or_are_refused(
    detected: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root, store = tmp_path_factory.mktemp("any"), Store.open(detected)
    folder, out, said = frame(root / "in" / name), root / "deep" / "out", ""
    before = others(root, out)
    try:
        assert segment(store, [folder], config(out)).frames == 1
    except DatasetError as error:
        said = str(error)
    assert others(root, out) - before <= {os.fsencode(out.parent)}
    assert said.isprintable() and visible(said) == said
    assert ((out / f"{name}_RES/mask001.tif").is_file()) != bool(said)
    assert not said or not out.exists()
    shutil.rmtree(root)


def test_a_folder_is_called_what_it_is_called_and_not_how_it_was_reached(
    detected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = frame(tmp_path / "new")
    (folder / "deeper").mkdir()
    for number, (here, path) in enumerate([(folder, "."), (folder / "deeper", ".."), (folder, "deeper/..")]):
        monkeypatch.chdir(here)
        segment(Store.open(detected), [Path(path)], config(tmp_path / f"out{number}"))
        assert (tmp_path / f"out{number}/new_RES/mask001.tif").is_file()


@pytest.mark.parametrize(
    "link",
    ["new_RES", ".cells", "new_RES/mask001.tif", "new_RES/mask001.png", ".cells/KEY.parquet", "segment.json",
     "cells.parquet", "cells.csv"],
)  # fmt: skip
def test_links_in_the_folder_are_refused_by_name(detected: Path, tmp_path: Path, link: str) -> None:
    folder, out, elsewhere = frame(tmp_path / "new"), tmp_path / "out", tmp_path / "elsewhere"
    ((name, image),) = find_images(folder).items()
    sha256 = frame_digest(tifffile.imread(image))
    key = Item(sequence="new", name=name, sha256=sha256, plane=probe(image, "t", None)[0]).key
    link = link.replace("KEY", key)
    place = out / link
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    if not place.suffix:
        elsewhere.mkdir()
    with pytest.raises(StoreError, match=rf"{link} is a symbolic link"):
        segment(Store.open(detected), [folder], config(out))
    assert not elsewhere.exists() or not any(elsewhere.iterdir())
