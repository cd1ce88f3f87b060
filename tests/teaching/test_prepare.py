"""From a folder of frames to a store: which sequence is meant, and what is said where that is not clear."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from frames import draw, save
from hela_store_cli.main import main

from hela_store.base.progress import silent
from hela_store.embedding.ingest import ingest
from hela_store.errors import DatasetError, StoreError
from hela_store.teaching.prepare import store_name, store_of_frames


@pytest.fixture
def frames(embedded: Path, tmp_path: Path) -> Path:
    """Return a folder with the sequences 01 and 02."""
    data = tmp_path / "two cells"
    shutil.copytree(embedded / "data", data)
    shutil.copytree(data / "01", data / "02")
    return data


def test_one_of_several_sequences_is_chosen(frames: Path, tmp_path: Path) -> None:
    path = tmp_path / "stores" / store_name(frames, "02")
    assert path.name == "two-cells-02" and store_name(frames) == "two-cells"
    with pytest.raises(DatasetError, match=r"has 2 sequences: 01, 02; choose one, such as --sequence 01"):
        store_of_frames(frames, path)
    with pytest.raises(DatasetError, match=r"has no sequence '03'; it has 01, 02"):
        store_of_frames(frames, path, sequence="03")
    with pytest.raises(DatasetError, match=r"holds no sequences; leave out --sequence"):
        store_of_frames(tmp_path, path, sequence="01")
    assert not path.exists()
    made = store_of_frames(frames, path, sequence="02")
    assert made.recipe.dataset.sequences == ("02",)
    assert store_of_frames(frames, path, sequence="02").path == path == store_of_frames(frames, path).path
    with pytest.raises(StoreError, match=r"is a store of other frames, .*two cells 02"):
        store_of_frames(frames, path, sequence="01")


def test_a_folder_that_is_a_sequence_itself_is_taught(frames: Path, tmp_path: Path) -> None:
    path = tmp_path / "stores" / "mine"
    made = store_of_frames(frames / "02", path)
    assert made.recipe.dataset.sequences == ("02",) and made.path == store_of_frames(frames / "02", path).path
    with pytest.raises(StoreError, match=r"is a store of other frames"):
        store_of_frames(frames / "01", path)


@pytest.mark.parametrize("count", [1, 5])
def test_a_single_frame_and_frames_much_alike_can_be_taught(tmp_path: Path, count: int) -> None:
    image, _ = draw(shape=(128, 128), cells=12)
    for name in ("a", "cell", "of", "mine", "z")[:count]:  # of no time-lapse
        save(tmp_path / "frames" / f"{name}.tif", image)
        image = image.copy()
        image[3, 3] += 1
    store = store_of_frames(tmp_path / "frames", tmp_path / "store")
    ingest(store, silent)
    assert set(store.blocks().values()) == {"train"} and len(store.blocks()) == count


def test_the_command_names_the_sequences(
    frames: Path, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, ["teach", str(frames)])
    assert said.exit_code == 1 and "01, 02; choose one" in said.output and "Traceback" not in said.output
    said = CliRunner().invoke(main, ["teach", "-s", str(embedded), "--sequence", "01"])
    assert said.exit_code == 2 and "--sequence chooses a sequence of FRAMES" in said.output
