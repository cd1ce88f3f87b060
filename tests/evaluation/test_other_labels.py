"""Runs against gold beside the reference, on nuclei drawn so that every number is known; no encoder is needed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hela_store_cli.main import main
from hela_store_cli.verdicts import merged

from hela_store.base.progress import silent
from hela_store.baselines.found import pixels, segment_split
from hela_store.baselines.rows import write_run
from hela_store.embedding.ingest import ingest
from hela_store.errors import DatasetError, RunError
from hela_store.evaluation.other_labels import score, truth_answers, truth_change
from hela_store.evaluation.tolerance import tolerance, truths_apart
from hela_store.runs.folder import new_run
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig

SHAPE = (60, 90)


def squares(*places: tuple[int, int, int]) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint16)
    for number, (x, y, side) in enumerate(places, 1):
        label[y : y + side, x : x + side] = number
    return label


SILVER = squares((5, 5, 20), (40, 5, 20), (5, 35, 20))
# the first redrawn smaller, the second as it is, one that silver lacks, and the third, which nobody drew
GOLD = squares((5, 5, 16), (40, 5, 20), (70, 40, 10))


@pytest.fixture
def gold_store(tmp_path: Path) -> Store:
    """A store of six frames labelled ST, gold for the last two, ingested and not embedded."""
    for number in range(6):
        files = {f"01/t{number:03}.tif": 100 + 50 * (SILVER > 0) + number, f"01_ST/SEG/man_seg{number:03}.tif": SILVER}
        if number > 3:
            files[f"01_GT/SEG/man_seg{number:03}.tif"] = GOLD
        for name, image in files.items():
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "data" / name, image.astype(np.uint16))
    blocks = {"train_frames": "0-1", "val_frames": "3-3", "test_frames": "5-5"}
    path = tmp_path / "store"
    new(path, NewConfig.of(dataset=str(tmp_path / "data"), labels="ST", tile="none", **blocks))
    ingest(Store.open(path), silent)
    return Store.open(path)


def imitate(store: Store, split: str = "test") -> str:
    """Publish a run whose masks are the store's own labels."""
    truth = pixels(store, "01/t005")[1].astype(np.int32)
    run = segment_split(store, split, lambda image: truth, "imitation", silent)
    return write_run(store, {"split": split, "checkpoint": "imitation"}, run, label=split).run


def test_who_imitates_the_reference_scores_what_it_scores(gold_store: Store) -> None:
    (found,) = score(gold_store, [imitate(gold_store)])
    assert (found.prompt, found.nuclei, found.n, found.unmatched) == ("none", 2, 2, 1)
    small = 16**2 / 20**2
    assert found.reference_iou == found.reference_dice == 1
    assert found.iou == pytest.approx((small + 1) / 2) == pytest.approx(found.between_iou)
    assert found.dice == pytest.approx((2 * 256 / (256 + 400) + 1) / 2)
    assert found.seg == pytest.approx((small + 1 + 0) / 3) == pytest.approx(found.between_seg)  # all three of gold
    assert found.to_json()["SEG"] == found.seg


def test_the_latest_may_be_a_baseline(gold_store: Store) -> None:
    run = imitate(gold_store)
    assert [found.run for found in score(gold_store, ["latest"])] == [run]


def test_the_tolerance_is_how_far_the_two_truths_are_apart(gold_store: Store) -> None:
    drawn = squares((10, 10, 20))
    shrunk = squares((12, 12, 16))
    alone = tolerance([truths_apart(drawn, 1, shrunk, 1)])
    # all 60 inner pixels are 2 px away, and 16 of 20 on each outer side; those at the corners are farther
    assert alone.median == 2 and alone.nsd1 == 0 and alone.nsd2 == pytest.approx((60 + 64) / (60 + 76))
    (found,) = score(gold_store, [imitate(gold_store)])
    one = tolerance([truths_apart(GOLD.astype(int), 1, SILVER.astype(int), 1)])
    assert found.tolerance.nuclei == 2 and found.tolerance.nsd1 == pytest.approx((one.nsd1 + 1) / 2) and one.nsd1 < 0.8
    told = CliRunner().invoke(main, ["score", found.run, "-s", str(gold_store.path)], catch_exceptions=False)
    assert str(found.tolerance) in told.output.replace("\n", " ") and "in the median" in told.output
    corner = squares((0, 0, 20))  # the border of the frame is no boundary
    assert tolerance([truths_apart(corner, 1, corner, 1)]).p95 == 0


def test_against_its_own_labels_a_run_scores_as_before(gold_store: Store) -> None:
    (found,) = score(gold_store, [imitate(gold_store)], "ST")
    assert (found.nuclei, found.unmatched, found.between_iou, found.between_seg) == (3, 0, 1, 1)
    assert found.iou == found.reference_iou == found.seg == 1


def test_runs_are_compared_on_the_same_nuclei(gold_store: Store) -> None:
    run = imitate(gold_store)
    first, same = score(gold_store, [run, run])
    assert first.over_first is None
    assert same.over_first is not None and same.over_first.mean == 0
    smaller = squares((5, 5, 16), (40, 5, 20), (5, 35, 20)).astype(np.int32)
    segmented = segment_split(gold_store, "test", lambda image: smaller, "gold", silent)
    as_gold = write_run(gold_store, {"split": "test", "checkpoint": "gold"}, segmented, label="test").run
    _, better = score(gold_store, [run, as_gold])
    assert better.over_first is not None and better.over_first.mean == pytest.approx((1 - 16**2 / 20**2) / 2)
    done = CliRunner().invoke(main, ["score", run, as_gold, "-s", str(gold_store.path)])
    said = done.output.replace("\n", " ")
    assert f"Change in IoU from {run} to the other runs, paired on the same cells and prompts" in said, done.output


def drawn(label: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Find these cells, whatever the image shows."""
    return label


def test_the_change_to_one_run_is_over_all_seeds_of_the_others(gold_store: Store) -> None:
    runs = [imitate(gold_store)]
    for side in (16, 18):
        label = squares((5, 5, side), (40, 5, 20), (5, 35, 20)).astype(np.int32)
        done = segment_split(gold_store, "test", partial(drawn, label), str(side), silent)
        runs.append(write_run(gold_store, {"split": "test", "checkpoint": str(side)}, done, label="test").run)
    first, *others = (ious for _, ious in truth_answers(gold_store, runs, "GT"))
    found = truth_change(gold_store, first, others)
    # of two nuclei the second is the same everywhere; the first is 16 px wide in gold
    before = 16**2 / 20**2
    after = [1.0, 16**2 / 18**2]
    assert found is not None and found.seeds == 2 and found.tracks == 2
    assert found.mean == pytest.approx(np.mean([(iou - before) / 2 for iou in after]))
    assert truth_change(gold_store, first, [{}]) is None


def test_the_command_and_what_it_refuses(gold_store: Store) -> None:
    run = imitate(gold_store)
    done = CliRunner().invoke(main, ["score", run, "--truth", "GT", "-s", str(gold_store.path)])
    assert done.exit_code == 0 and "1 cells of GT are not in" in done.output, done.output
    told = CliRunner().invoke(main, ["score", run, run, "-s", str(gold_store.path), "--json"])
    assert [row["nuclei"] for row in json.loads(told.stdout)] == [2, 2]
    with pytest.raises(RunError, match="answered none of the nuclei"):
        score(gold_store, [imitate(gold_store, "val")])
    folder = new_run(gold_store.path, "finetune", {"prompt": "box"})
    folder.publish()
    with pytest.raises(RunError, match="kind finetune and has no predictions"):
        score(gold_store, [folder.id])


def test_gold_of_another_size_or_none_is_an_error(gold_store: Store) -> None:
    run = imitate(gold_store)
    folder = gold_store.path.parent / "data" / "01_GT"
    tifffile.imwrite(folder / "SEG" / "man_seg005.tif", GOLD[:-4])
    with pytest.raises(DatasetError, match="56 x 90"):
        score(gold_store, [run])
    for file in (folder / "SEG").iterdir():
        file.unlink()
    (folder / "SEG").rmdir()
    with pytest.raises(DatasetError, match="no GT labels"):
        score(gold_store, [run])


def test_masks_that_cover_a_neighbour_are_named(gold_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    merged(gold_store, imitate(gold_store))
    assert capsys.readouterr().out == ""
    label = SILVER.astype(np.int32)
    label[5:41, 5:25] = 1  # the first cell, down to a third of the third one
    done = segment_split(gold_store, "test", partial(drawn, label), "merging", silent)
    run = write_run(gold_store, {"split": "test", "checkpoint": "merging"}, done, label="test").run
    merged(gold_store, run)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Merged with a neighbour, none: 1 cell, such as 01/t005#1."
    assert told[1] == "To list them:"  # the command stays whole, on a line of its own
    query = told[2].removeprefix('hela-store sql "').removesuffix('"')
    assert gold_store.sql(query).fetchall() == [("01/t005#1",)]


def test_a_folder_has_no_gold_and_the_way_out_is_named(tmp_path: Path) -> None:
    for number in range(6):
        for name, image in (("images", 100 + 50 * (SILVER > 0) + number), ("masks", SILVER)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "data" / name / f"t{number}.tif", image.astype(np.uint16))
    blocks = {"train_frames": "0-1", "val_frames": "3-3", "test_frames": "5-5"}
    store = new(tmp_path / "store", NewConfig.of(dataset=str(tmp_path / "data"), tile="none", **blocks)).store
    ingest(store, silent)
    segmented = segment_split(store, "test", partial(drawn, SILVER.astype(np.int32)), "imitation", silent)
    write_run(store, {"split": "test", "checkpoint": "imitation"}, segmented, label="test")
    with pytest.raises(DatasetError, match=r"alone has GT labels.*`hela-store labels import DIR`"):
        score(Store.open(store.path), ["latest"])


def test_labels_of_another_image_of_the_same_name_are_not_used(gold_store: Store) -> None:
    run = imitate(gold_store)
    image = gold_store.path.parent / "data/01/t005.tif"
    tifffile.imwrite(image, tifffile.imread(image) + 1)
    with pytest.raises(DatasetError, match=r"t005\.tif is not the image that was ingested as 01/t005"):
        score(gold_store, [run])
