"""One command from a labelled folder to masks and a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tifffile
from click.testing import CliRunner
from hela_store_cli.main import main

import hela_store as hs
from hela_store.datasets.synthetic import write_sequence
from hela_store.errors import DatasetError, StoreError
from hela_store.runs.folder import run_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 8 drawn frames; the label images of two of them are not there."""
    images, masks = tmp_path / "frames/images", tmp_path / "frames/masks"
    images.mkdir(parents=True)
    masks.mkdir()
    for number in range(8):
        drawn = tmp_path / f"drawn{number}"
        write_sequence(drawn, frames=1, shape=(192, 256), cells=12, seed=number)
        tifffile.imwrite(images / f"f{number}.tif", tifffile.imread(drawn / "01/t000.tif"))
        if number not in (6, 7):
            label = next((drawn / "01_ST/SEG").glob("*.tif"))
            tifffile.imwrite(masks / f"f{number}.tif", tifffile.imread(label))
    return tmp_path / "frames"


def config(folder: Path, **more: object) -> hs.FitConfig:
    out = folder.parent
    given = {"data": folder, "store": out / "stores/frames", "out": out / "fitted", "steps": 2, "detector_steps": 2}
    return hs.FitConfig(**given | more)  # type: ignore[arg-type]


def test_a_dry_run_says_the_steps_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    printed = CliRunner().invoke(main, ["fit", str(folder), "--dry-run", "--json"])
    told = json.loads(printed.stdout)
    words = [step["command"].split()[1] for step in told["steps"]]
    steps = ["new", "embed", "finetune", "finetune", "detect", "evaluate", "evaluate", "evaluate", "segment", "report"]
    assert words == steps and told["dry_run"] and told["decisions"] == ["6 of 8 frames are labelled"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_fitted_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        hs.fit(config(folder / "nothing"))
    bare = folder.parent / "bare"
    shutil.copytree(folder / "images", bare)
    with pytest.raises(DatasetError, match=r"no labels to learn from.*hela-store segment .* --generic"):
        hs.fit(config(bare))
    hs.new(folder.parent / "stores/frames", hs.NewConfig.of(dataset=str(bare), labels="none"))
    with pytest.raises(StoreError, match=r"is a store of .*bare, not of .*frames; choose another name"):
        hs.fit(config(folder))
    assert not (folder.parent / "fitted").exists()


@pytest.mark.slow
def test_a_folder_becomes_masks_and_a_report_and_the_same_call_keeps_them(folder: Path) -> None:
    found = hs.fit(config(folder))
    assert found.frames == 2 and "segmented: the 2 frames without labels" in found.decisions
    masks = sorted(path.name for path in (found.masks / "images_RES").glob("*.tif"))
    assert masks == ["mask006.tif", "mask007.tif"] and found.report.is_file()
    assert not any(step.done_before for step in found.steps)
    runs = run_ids(found.store)
    again = hs.fit(config(folder))
    assert run_ids(found.store) == runs and (again.frames, again.cells) == (found.frames, found.cells)
    assert [step.command for step in again.steps[1:]] == [step.command for step in found.steps[1:]]
    assert all(step.done_before for step in again.steps[:-1])
    for path in list((folder / "masks").glob("*.tif"))[:1]:  # every frame labelled: the test block is segmented
        for number in (6, 7):
            shutil.copy(path, folder / f"masks/f{number}.tif")
    whole = hs.fit(config(folder, store=folder.parent / "stores/whole", out=folder.parent / "whole"))
    assert "of the test set, because all frames are labelled" in whole.decisions[-1]
