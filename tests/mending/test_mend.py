"""Masks of a tool come out better, under their own numbers; bad input is one line, and nothing is half-written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from hela_store_cli.main import main
from PIL import Image

from hela_store.base.rng import generator
from hela_store.baselines.classical import classical
from hela_store.baselines.config import ClassicalConfig
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.frames import context_of, frame_cells
from hela_store.evaluation.scorings import store_scorings
from hela_store.evaluation.sequences import run_labels
from hela_store.mending import validate
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.runs.folder import load_run
from hela_store.show.report import report
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

FRAMES = ("01/t000", "01/t001", "01/t005")


def mend(store: Path, masks: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["mend", str(masks), "-s", str(store), "--out", str(out), "--zero-shot", *more])


def degraded(store: Store, frame: str) -> np.ndarray:
    """Return masks as a poor tool makes them, numbered from 60,001 on."""
    part = next(iter(frame_cells(store, [frame])))
    label = np.zeros(part.shape, np.uint16)
    for cell in part.cells:
        drawn = draw_degraded_mask(generator("tool", cell.cell), context_of(part, cell))
        (x, y), (rows, columns) = drawn.origin, drawn.mask.shape
        place = label[y : y + rows, x : x + columns]
        place[drawn.mask & (place == 0)] = 60_000 + cell.label
    return label


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an embedded store of 6 drawn frames with many cells. Not to be changed."""
    path = tmp_path_factory.mktemp("mend") / "store"
    drawn = SyntheticConfig(frames=6, shape=(288, 320), cells=30)
    blocks = {"train_frames": "0-1", "val_frames": "2-3", "test_frames": "5-5"}
    new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    embed(Store.open(path), EmbedConfig())
    return path


@pytest.fixture(scope="module")
def tool(split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tool") / "cellpose"
    folder.mkdir()
    store = Store.open(split)
    for frame in FRAMES:
        Image.fromarray(degraded(store, frame)).save(folder / f"{frame[3:]}_cp_masks.png")
    # Cellpose saves its masks beside the images
    tifffile.imwrite(folder / "t005.tif", store.pixels.image("01/t005"))
    tifffile.imwrite(folder / "t099_cp_masks.tif", np.ones((4, 4), np.uint8))
    return folder


@pytest.fixture(scope="module")
def mended(split: Path, tool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("mended") / "out"
    done = mend(split, tool, out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout), done.stderr


@pytest.mark.ci
def test_the_same_numbers_come_out_better_under_the_same_names(
    split: Path, tool: Path, mended: tuple[Path, dict[str, Any], str]
) -> None:
    out, told, stderr = mended
    assert sorted(path.name for path in out.iterdir()) == [f"{frame[3:]}_cp_masks.tif" for frame in FRAMES]
    for frame in FRAMES:
        before = np.asarray(Image.open(tool / f"{frame[3:]}_cp_masks.png"))
        after = tifffile.imread(out / f"{frame[3:]}_cp_masks.tif")
        assert after.dtype == np.uint16 and np.array_equal(np.unique(after), np.unique(before))
    test = told["scores"]["test"]
    assert test["n"] > 5 and test["after"] > test["before"] + 0.1
    assert "2 files have no frame's name and are not mended" in stderr
    rows = load_run(split, told["run"]).rows("changes")
    assert {row["frame"]: row["fitted"] for row in rows} == dict(zip(FRAMES, ("errors", "errors", ""), strict=True))
    assert list(told["scores"]) == ["test"], "frames that errors were fitted on are in no mean"
    assert told["fitted"] == {"errors": sum(row["cell"] is not None and row["split"] == "train" for row in rows)}
    assert told["gate"]["masks"] > 40 and "masks and their labels" in told["errors"]
    assert not list(out.parent.glob(".*.partial"))


def test_every_mask_is_a_row_and_kept_ones_are_as_they_were(
    split: Path, tool: Path, mended: tuple[Path, dict[str, Any], str]
) -> None:
    out, told, _ = mended
    store = Store.open(split)
    rows = (
        store.sql(f"SELECT * FROM changes WHERE run = '{told['run']}' ORDER BY frame, label")
        .to_arrow_table()
        .to_pylist()
    )
    assert len(rows) == told["masks"] == sum(told["actions"].values())
    kept = 0
    for row in rows:
        before = np.asarray(Image.open(tool / f"{row['frame'][3:]}_cp_masks.png")) == row["label"]
        after = tifffile.imread(out / row["file"]) == row["new_label"]
        iou = (before & after).sum() / (before | after).sum()
        assert (row["area_before"], row["area_after"]) == (before.sum(), after.sum())
        assert row["iou_change"] == pytest.approx(iou) and row["reason"]
        if row["action"] == "kept":
            kept += 1
            assert np.array_equal(before, after)
        if row["cell"] is not None:
            truth = store.pixels.label(row["frame"]) == int(row["cell"].partition("#")[2])
            assert row["iou_after"] == pytest.approx((after & truth).sum() / (after | truth).sum())
    assert kept == told["actions"].get("kept", 0)
    # labelled test frames were looked at
    assert told["run"] in [run.id for run in store_scorings(store)[0]]


def test_the_same_command_makes_no_second_run(
    split: Path, tool: Path, mended: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    out, told, _ = mended
    again = mend(split, tool, out)
    assert again.exit_code == 0 and "already complete" in again.stderr
    other = mend(split, tool, tmp_path / "elsewhere", "--json")
    assert json.loads(other.stdout)["run"] == told["run"] and json.loads(other.stdout)["reused"]
    (out.parent / "full").mkdir()
    refused = mend(split, tool, out.parent / "full")
    assert refused.exit_code == 1 and "is there already, and is another" in refused.stderr


def test_pieces_that_splits_add_have_numbers_of_their_own_in_all_frames(split: Path, tmp_path: Path) -> None:
    """Masks of a tracker keep their numbers over time, so a new number must be free in every frame."""
    masks, store = tmp_path / "masks", Store.open(split)
    masks.mkdir()
    for number, frame in enumerate(FRAMES):
        part = next(iter(frame_cells(store, [frame])))
        label = degraded(store, frame)
        for cell in part.cells[::2]:
            gaps, own = context_of(part, cell).gaps, part.label == cell.label
            if gaps:
                nearest = min(gaps, key=gaps.__getitem__)
                label[own | (part.label == nearest)] = 60_000 + cell.label
                label[label == 60_000 + nearest] = 0
        label[label > 0] -= 100 * number
        tifffile.imwrite(masks / f"{frame[3:]}.tif", label)
    done = mend(split, masks, tmp_path / "out", "--split-merge", "--json")
    assert done.exit_code == 0, done.output
    rows = load_run(split, json.loads(done.stdout)["run"]).rows("changes")
    highest = max(row["label"] for row in rows if row["label"] is not None)
    added = [(row["frame"], row["new_label"]) for row in rows if row["label"] is None]
    numbers = [number for _, number in added]
    assert len({frame for frame, _ in added}) > 1 and len(set(numbers)) == len(numbers) and min(numbers) > highest
    for frame, number in added:
        assert (tifffile.imread(tmp_path / "out" / f"{frame[3:]}.tif") == number).any()


def test_the_report_shows_them(split: Path, mended: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    pytest.importorskip("altair")
    store = tmp_path / "store"
    shutil.copytree(split, store)
    made = report(Store.open(store), [mended[1]["run"]], out=tmp_path / "report.html")
    assert "mended" in made.sections and made.notes == ()
    page = (tmp_path / "report.html").read_text()
    assert "Mended masks" in page and page.count("data:image/webp") >= 4


def test_masks_of_a_run_are_mended(split: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(split, path)
    run = classical(Store.open(path), ClassicalConfig(split="test", budget=3)).run
    done = mend(path, Path(run), tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["frames"] == 1 and told["masks"] > 5 and told["scores"]["test"]["n"] > 5
    before = dict(run_labels(Store.open(path), run).answers)["01/t005"]
    after = tifffile.imread(tmp_path / "out" / "01" / "t005.tif")
    assert np.unique(after[after > 0]).tolist() == list(range(1, len(before) + 1))
    assert load_run(path, told["run"]).config["origin"] == run
    for name, why in (
        ("no-such", "there is no folder of masks at no-such, nor a run"),
        ("no/such", "no folder of prompt"),
    ):
        refused = mend(path, Path(name), tmp_path / "other")
        assert refused.exit_code == 1 and why in refused.stderr and refused.stderr.count("\n") == 1


def labels(store: Path) -> np.ndarray:
    return Store.open(store).pixels.label("01/t005").astype(np.uint16)


def empty(folder: Path, store: Path) -> None:
    """An empty folder."""


def black(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "t005.tif", np.zeros_like(labels(store)))


def binary(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "t005.tif", (labels(store) > 0).astype(np.uint8) * 255)


def classes(folder: Path, store: Path) -> None:
    """Write what ilastik exports as Simple Segmentation: 1 for cells, 2 for background."""
    tifffile.imwrite(folder / "t005.tif", np.where(labels(store) > 0, 1, 2).astype(np.uint8))


def crowded(folder: Path, store: Path) -> None:
    """Write classes that fill a frame in equal shares."""
    columns = np.indices(labels(store).shape)[1]
    tifffile.imwrite(folder / "t005.tif", (1 + columns // 20 % 2 + (columns % 20 == 0)).astype(np.uint8))


def one_binary(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "t005.tif", labels(store))
    tifffile.imwrite(folder / "t001.tif", (labels(store) > 0).astype(np.uint8) * 255)


def interiors(folder: Path, store: Path) -> None:
    """Write every second cell as one class, the others as another."""
    label = labels(store)
    tifffile.imwrite(folder / "t005.tif", np.where(label > 0, 1 + label % 2, 0).astype(np.uint8))


def floats(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "t005_seg.tif", labels(store).astype(np.float32))


def size(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "t005.tif", labels(store)[:-1])


def others(folder: Path, store: Path) -> None:
    tifffile.imwrite(folder / "plate5.tif", labels(store))


def pickled(folder: Path, store: Path) -> None:
    (folder / "t005_seg.npy").touch()


def cells(folder: Path, store: Path) -> None:
    for value in np.unique(labels(store))[1:3]:
        tifffile.imwrite(folder / f"t005_{value}.tif", (labels(store) == value).astype(np.uint8))


def folders(folder: Path, store: Path) -> None:
    (folder / "t005").mkdir()
    for value in np.unique(labels(store))[1:3]:
        tifffile.imwrite(folder / "t005" / f"{value}.tif", (labels(store) == value).astype(np.uint8))


def twice(folder: Path, store: Path) -> None:
    for name in ("t005_cp_masks.tif", "t005_seg.png.tif", "t005_masks.tif"):
        tifffile.imwrite(folder / name, labels(store))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (empty, r"no label image in .* has the name of a frame \(it has none\)"),
        (black, r"the 1 label images in .* hold no cell"),
        (binary, r"t005\.tif is a binary mask: all of its cells have one value"),
        (classes, r"t005\.tif has no background: no pixel is 0, and value 2 fills more than half .*ilastik: export Object"),
        (crowded, r"t005\.tif has classes, not cells: each of its 3 values \(1, 2, 3\) stands for all that is alike"),
        (interiors, r"t005\.tif has classes, not cells: each of its 2 values"),
        (one_binary, r"t001\.tif is a binary mask: all of its cells have one value"),
        (floats, r"a label image of float32, expected whole numbers"),
        (size, r"t005\.tif has 287 x 320 px \(rows x cols\), its frame 01/t005 has 288 x 320"),
        (others, r"has the name of a frame \(1 images there, such as plate5\.tif\); expected TIFF or PNG files such as t000\.tif"),
        (pickled, r"_seg\.npy files can hold code and are not read"),
        (cells, r"images are of frame 01/t005, one a cell\? join them into one label image"),
        (folders, r"holds several images of frame 01/t005, one a cell\? join them"),
        (twice, r"t005_cp_masks\.tif and .*t005_masks\.tif are both for frame 01/t005; remove one"),
    ],
)  # fmt: skip
def test_bad_masks_are_one_line_and_leave_nothing(split: Path, tmp_path: Path, make: Any, told: str) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    make(masks, split)
    runs = sorted(path.name for path in (split / "runs").glob("*")) if (split / "runs").exists() else []
    done = mend(split, masks, tmp_path / "out")
    assert done.exit_code == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert re.search(told, done.stderr), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks"]
    assert runs == (sorted(path.name for path in (split / "runs").glob("*")) if (split / "runs").exists() else [])


def test_with_few_validation_cells_nothing_is_changed(
    split: Path, tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few validation cells are too few to say when an answer is better."""
    monkeypatch.setattr(validate, "CELLS", 4)
    store = tmp_path / "store"
    shutil.copytree(split, store)
    # another prompt, so that no finished run is taken
    done = mend(store, tool, tmp_path / "out", "--prompt", "box")
    assert done.exit_code == 1 and "the gate cannot be calibrated" in done.stderr
    assert not (tmp_path / "out").exists() and not list((store / "runs").glob("*mend-box*"))


@pytest.mark.ci
def test_prompts_get_the_errors_of_the_tool(split: Path, tool: Path, tmp_path: Path) -> None:
    shutil.copytree(split, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    quick: dict[str, Any] = {"prompt": "mask", "steps": 1, "cells": 2, "workers": 0, "validation_cells": 4}
    like = finetune(store, FinetuneConfig.of(errors_like=str(tool), **quick))
    model = load_run(store.path, like.run).config["error_model"]
    assert model["pairs"] >= 20 and 0.4 < model["bins"][0][0] < model["bins"][-1][1] < 0.95
    assert "errors measured on" in like.errors
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tool / "t005_cp_masks.png", alone)
    done = finetune(store, FinetuneConfig.of(errors_like=str(alone), **quick))
    assert done.errors.startswith("the generic error model, because no labelled training frame has one of these masks")
    assert load_run(store.path, done.run).config["error_model"]["pairs"] == 0
    generic = load_run(store.path, finetune(store, FinetuneConfig.of(**quick)).run)
    assert not {"errors_like", "error_model"} & set(generic.config)


@pytest.fixture(scope="module")
def tuned(split: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a store with a fine-tuning of a step, and its run. Not to be changed."""
    path = tmp_path_factory.mktemp("tuned") / "store"
    shutil.copytree(split, path)
    quick = FinetuneConfig.of(prompt="mask", steps=1, cells=2, workers=0, validation_cells=4)
    return path, finetune(Store.open(path), quick).run


def test_a_decoder_that_trained_on_test_frames_mends_none_of_them(
    tuned: tuple[Path, str], tool: Path, tmp_path: Path
) -> None:
    path, run = tmp_path / "store", tuned[1]
    shutil.copytree(tuned[0], path)
    recipe = path / RECIPE_FILE
    text = recipe.read_text()
    for block, before, now in (("train", "0-1", "5-5"), ("test", "5-5", "0-1")):
        assert f'\n{block} = "{before}"' in text
        text = text.replace(f'\n{block} = "{before}"', f'\n{block} = "{now}"')
    recipe.write_text(text)
    before_it = sorted((path / "runs").iterdir())
    done = CliRunner().invoke(main, ["mend", str(tool), "-s", str(path), "--out", str(tmp_path / "out"), "--run", run])
    assert done.exit_code == 1, done.output
    assert f"run {run} trained on 2 of the 2 frames to score, such as 01/t000" in done.stderr
    assert not (tmp_path / "out").exists() and sorted((path / "runs").iterdir()) == before_it


@pytest.mark.slow
def test_what_the_decoder_and_the_gate_were_fitted_on_is_in_no_mean(tuned: tuple[Path, str], tmp_path: Path) -> None:
    path, run = tmp_path / "store", tuned[1]
    shutil.copytree(tuned[0], path)
    masks = tmp_path / "masks"
    masks.mkdir()
    for frame in ("01/t000", "01/t001", "01/t002", "01/t005"):
        tifffile.imwrite(masks / f"{frame[3:]}.tif", degraded(Store.open(path), frame))
    given = ["mend", str(masks), "-s", str(path), "--out", str(tmp_path / "out"), "--run", run]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    rows = Store.open(path).sql("SELECT DISTINCT frame, fitted FROM changes ORDER BY frame").fetchall()
    trained = [("01/t000", "decoder, errors"), ("01/t001", "decoder, errors")]
    assert rows == [*trained, ("01/t002", "decoder, gate"), ("01/t005", "")]
    assert re.search(
        r"Fitted on, and so in no mean: \d+ masks \(decoder, errors\), \d+ masks \(decoder, gate\)\.", done.stdout
    )
    assert re.search(r"^test +\d+", done.stdout, re.M) and not re.search(r"^(train|val) +\d+", done.stdout, re.M)
