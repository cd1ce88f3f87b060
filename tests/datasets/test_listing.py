"""Which files are images and which are labels, by their names, and what is said of the rest."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from frames import draw, label_of, save

from hela_store.datasets import FolderReader, inspect
from hela_store.datasets.listing import find_images, list_images
from hela_store.errors import DatasetError

ENDINGS = ["_mask", "_masks", "_cp_masks", "_seg", "_label", "_labels", "-mask", "_Mask"]


def check(root: Path, count: int = 4) -> tuple[str, ...]:
    """Assert that there are frames f0, f1, ... and each has its own labels; return the warnings."""
    summary = inspect(root)
    reader = FolderReader(summary.config, root)
    assert len(reader) == count and summary.labelled == count
    for frame in reader():
        number = int(frame.name[-1])
        assert np.array_equal(frame.image, draw(number)[0]) and np.array_equal(label_of(frame), draw(number)[1])
    return summary.warnings


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIF"])
def test_masks_by_their_endings(tmp_path: Path, ending: str, suffix: str) -> None:
    for number in range(4):
        image, label = draw(number)
        for folder in ("flat", "apart/images"):
            save(tmp_path / folder / f"f{number}{suffix if suffix != '.png' else '.tif'}", image)
        save(tmp_path / f"flat/f{number}{ending}{suffix}", label)
        save(tmp_path / f"apart/masks/f{number}{ending}{suffix}", label)
    assert check(tmp_path / "flat") == check(tmp_path / "apart") == ()
    assert list(find_images(tmp_path / "flat")) == ["f0", "f1", "f2", "f3"]


def test_names_count_as_equal_whatever_their_unicode_form(tmp_path: Path) -> None:
    for number in range(4):
        image, label = draw(number)
        name = f"F\u00fc\u00dfe {number}"
        save(tmp_path / "images" / f"{unicodedata.normalize('NFC', name)}.tif", image)
        save(tmp_path / "masks" / f"{unicodedata.normalize('NFD', name)}_mask.tif", label)
    assert check(tmp_path) == ()


def test_folders_in_capitals(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"Images/f{number}.TIF", draw(number)[0])
        save(tmp_path / f"MASKS/f{number}.Tiff", draw(number)[1])
    assert check(tmp_path) == ()


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"images/f{number}.tif", draw(number)[0])
        save(tmp_path / f"images/f{number}_seg.tif", draw(number)[1])
        save(tmp_path / f"masks/f{number}.tif", draw(number)[1])
    (warning,) = check(tmp_path)
    assert (
        warning
        == "4 files (f0_seg.tif, f1_seg.tif, f2_seg.tif, ...) are named like label images and passed over: masks holds the masks"
    )
    summary = inspect(tmp_path, labels="none")
    assert summary.frames == 4 and "passed over: not asked for" in summary.warnings[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("labels/f0.tif", "the folder labels looks like labels and is not read; call it masks"),
        ("ground_truth/f0.tif", "the folder ground_truth looks like labels"),
        ("images/f0_seg.npy", "f0_seg.npy is possibly labels and not read"),
        ("images/f0.roi", "f0.roi is possibly labels"),
        ("annotations.json", "annotations.json is possibly labels"),
        ("images/other.nd2", "other.nd2 is of a kind that is not read; save as OME-TIFF"),
        ("images/lost_masks.tif", "lost_masks.tif is named like label images, but no image"),
    ],
)
def test_what_looks_like_labels_or_images_and_is_not_read(tmp_path: Path, name: str, words: str) -> None:
    save(tmp_path / "images/f0.tif", draw(0)[0])
    if name.endswith(".tif"):
        save(tmp_path / name, draw(1)[0])
    else:
        (tmp_path / name).write_bytes(b"x")
    warnings = inspect(tmp_path).warnings
    assert len(warnings) == 1 and words in warnings[0]


@pytest.mark.parametrize("suffix", [".nd2", ".czi", ".lif", ".stk", ".OIB", ".jpg"])
def test_files_of_other_kinds_are_refused_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data/scan{suffix}"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)))
    for root in (path, path.parent):
        with pytest.raises(DatasetError, match=r"files \(\.\w+\) are not read; save as OME-TIFF \(Fiji.*bfconvert"):
            inspect(root)


def test_two_masks_of_an_image_and_a_mask_of_none(tmp_path: Path) -> None:
    for name in ("f0", "f0_mask", "f0_seg"):
        save(tmp_path / f"flat/{name}.tif", draw(0)[0])
    with pytest.raises(DatasetError, match=r"f0\.tif: f0_mask\.tif and f0_seg\.tif are both named as its labels"):
        list_images(tmp_path / "flat")
    save(tmp_path / "two/images/f0.tif", draw(0)[0])
    for name in ("f0", "f0_mask"):
        save(tmp_path / f"two/masks/{name}.tif", draw(0)[1])
    with pytest.raises(DatasetError, match=r"are both labels of f0\.tif"):
        list_images(tmp_path / "two")
    (tmp_path / "two/masks/f0.tif").rename(tmp_path / "two/masks/g7_cp_masks.tif")
    with pytest.raises(DatasetError, match=r"g7_cp_masks\.tif is a mask without a frame: .* rename it"):
        list_images(tmp_path / "two")
