from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from hela_store.datasets.frame_files import FrameFiles, files_of_frames, mask_stems
from hela_store.errors import PromptError

FRAMES = ["01/t000", "01/t001", "02/t000", "02/t002", "stills/b"]


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def find(folder: Path, frames: list[str] = FRAMES) -> FrameFiles:
    return files_of_frames(folder, frames, (".tif", ".png"), mask_stems)


def test_folders_of_sequences(tmp_path: Path) -> None:
    folder = files(tmp_path, "01/t000.TIF", "01_RES/mask001.tif", "02_RES/man_seg000.png", "stills_RES/mask_b.ome.tif")
    found = find(files(folder, "01/notes.txt", "01/t009.tif", "03/t000.tif"))
    assert {frame: str(path.relative_to(folder)) for frame, path in found.found.items()} == {
        "01/t000": "01/t000.TIF",
        "01/t001": "01_RES/mask001.tif",
        "02/t000": "02_RES/man_seg000.png",
        "stills/b": "stills_RES/mask_b.ome.tif",
    }
    assert found.unused == (folder / "01/t009.tif",)


def test_a_bare_name_fits_one_frame_alone(tmp_path: Path) -> None:
    folder = files(tmp_path / "masks", "t001.tif", "mask002.TIF", "b.tif")
    assert list(find(folder).found) == ["01/t001", "02/t002", "stills/b"]
    files(folder, "mask000.tif")
    with pytest.raises(
        PromptError, match=r"mask000\.tif fits frame 01/t000 and frame 02/t000; .*masks/01/mask000\.tif"
    ):
        find(folder)
    assert list(find(folder, FRAMES[:2]).found) == ["01/t000", "01/t001"]


@pytest.mark.parametrize("name", ["02", "02_RES"])
def test_a_folder_that_bears_the_name_of_a_sequence_is_for_it_alone(tmp_path: Path, name: str) -> None:
    found = find(files(tmp_path / name, "t000.tif", "t001.tif", "t002.tif"))
    assert list(found.found) == ["02/t000", "02/t002"] and [path.name for path in found.unused] == ["t001.tif"]


def test_two_files_of_one_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"t001\.png and .*t001\.tif are both for frame 01/t001"):
        find(files(tmp_path / "a", "t001.png", "t001.tif"))
    with pytest.raises(PromptError, match=r"01/t001\.tif and .*mask001\.tif are both for frame 01/t001"):
        find(files(tmp_path / "b", "01/t001.tif", "mask001.tif"))


def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path) -> None:
    name = "Zählung"
    files(tmp_path, unicodedata.normalize("NFD", name) + ".tif")
    assert list(find(tmp_path, [f"images/{unicodedata.normalize('NFC', name)}"]).found)
