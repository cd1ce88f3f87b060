"""Frames nobody has seen, to label images; label-free scores; and what is flagged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cells import cell
from PIL import Image

from hela_store.detection.detect import detect
from hela_store.errors import DatasetError, RunError, StoreError
from hela_store.runs.folder import load_run, new_run
from hela_store.segmentation.assemble import FoundCell, resolve
from hela_store.segmentation.calibration import Calibration, expected_error, fit, load_calibration, report
from hela_store.segmentation.config import DetectedConfig, SegmentConfig
from hela_store.segmentation.evaluate import calibrate, evaluate_detected, keep
from hela_store.segmentation.resolve import resolve_prompts
from hela_store.segmentation.segment import segment
from hela_store.show.report.choice import choose
from hela_store.show.report.scores import calibration
from hela_store.store.store import Store

LOW = DetectedConfig(threshold=0.2, device="cpu")


def test_the_surer_mask_wins_and_a_second_sight_of_a_cell_goes() -> None:
    found = [cell(0, 0, 0, 10, 0.7), cell(1, 8, 0, 10, 0.9), cell(2, 1, 1, 8, 0.5), cell(3, 20, 20, 4, 0.1)]
    label, kept = resolve(found, (30, 30))
    assert [c.number for c in kept] == [1, 0, 3]
    assert label.dtype == np.int32 and (label == 1).sum() == 100 and (label == 2).sum() == 80
    for i, c in enumerate(kept):
        x, y = c.origin
        assert (label[y : y + c.mask.shape[0], x : x + c.mask.shape[1]][c.mask] == i + 1).all()


def test_a_mask_cut_in_two_keeps_its_larger_part() -> None:
    label, kept = resolve([cell(0, 0, 0, 12, 0.5), cell(1, 2, 0, 3, 0.9)], (12, 12))
    bar = FoundCell(**(cell(2, 0, 0, 1, 0.8).__dict__ | {"mask": np.ones((12, 2), bool), "origin": (3, 0)}))
    assert len(kept) == 2 and (label == 1).sum() == 9
    label, kept = resolve([cell(0, 0, 0, 12, 0.5), bar], (12, 12))
    assert (label == 2).sum() == 84 and not label[:, :3].any()  # 3 columns lost to the smaller side


def test_calibration_learns_what_tells_failures() -> None:
    rng = np.random.default_rng(0)
    signs = rng.uniform(0, 1, (2000, 4))
    chance = 1 / (1 + np.exp(-(8 * signs[:, 0] + 4 * signs[:, 3] - 2)))
    right = rng.random(2000) < chance
    found = fit(signs[:1000], right[:1000])
    probability = found.probability(signs[1000:])
    assert np.abs(probability - chance[1000:]).mean() < 0.03
    told = report(probability, right[1000:], signs[1000:, 0])
    assert told["ece"] < 0.03 and told["flagged"] == 50 and told["too_few"] == ""
    assert 0 < told["brier_skill"] < 1 and told["auroc"] > 0.7 and told["aurc"] < float((~right[1000:]).mean())
    assert all(row["failures_low"] <= row["failures"] <= row["failures_high"] for row in told["risk_coverage"])
    few = report(probability[:30], np.arange(30) > 8, np.ones(30))
    assert few["auroc"] is None and few["too_few"].startswith("too few to calibrate: 9 wrong masks and 21 right ones")
    assert told["caught"] > 0.25  # chance would be 0.05
    risks = [row["failures"] for row in told["risk_coverage"]]
    assert risks[0] <= risks[-1] == pytest.approx(float((~right[1000:]).mean()))
    assert expected_error(np.array([0.9, 0.9, 0.1, 0.1]), [1, 1, 0, 1]) == pytest.approx((0.2 + 0.8) / 4)


def test_a_block_without_failures_gives_no_certainty() -> None:
    found = fit(np.random.default_rng(1).uniform(0.8, 1, (30, 4)), np.ones(30, bool))
    assert found.failures == 0 and np.isfinite(found.weights).all()
    with pytest.raises(RunError, match="nothing can be calibrated"):
        fit(np.zeros((0, 4)), np.zeros(0))


@pytest.mark.parametrize("damaged", ["", "[1, 2]", '{"mean": [1, 2]}'])
def test_a_damaged_calibration_is_named(tmp_path: Path, damaged: str) -> None:
    run = new_run(tmp_path, "calibration", {})
    (run.path / "calibration.json").write_text(damaged)
    run.publish()
    with pytest.raises(RunError, match=r"calibration.json cannot be read .*; calibrate again"):
        load_calibration(run.info)


def calibrated(store: Store) -> tuple[str, Calibration]:
    """Publish a calibration that was fitted on drawn signs: a test's store has too few cells for one of its own."""
    rng = np.random.default_rng(0)
    found = fit(rng.uniform(0, 1, (100, 4)), rng.random(100) < 0.7)
    return keep(store, resolve_prompts(store, replace(LOW, split="val")), found), found


@pytest.mark.ci
def test_a_calibration_needs_failures_to_learn_from(detector_store: Store) -> None:
    with pytest.raises(RunError, match=r"too few to calibrate: 0 wrong masks and \d+ right ones, expected at least 10"):
        calibrate(detector_store, LOW)
    assert not list(detector_store.path.glob("runs/*calibration*"))


@pytest.mark.ci
def test_a_calibration_of_too_few_failures_is_not_used_and_segment_says_so(
    detector_store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    prompts = resolve_prompts(detector_store, replace(LOW, split="val"))
    run = keep(detector_store, prompts, fit(rng.uniform(0, 1, (100, 4)), np.arange(100) >= 9))
    tifffile.imwrite(tmp_path / "t004.tif", detector_store.pixels.image(_last(detector_store)))
    config = SegmentConfig(out=tmp_path / "out", prompts=LOW, overlay=False)
    done = segment(detector_store, [tmp_path / "t004.tif"], config)
    assert done.cells > 0 and done.flagged is None
    assert done.calibration == (
        f"{run} is not used, so no cell is flagged as doubtful: too few to calibrate: 9 wrong masks and 91 right ones, "
        "expected at least 10 of each"
    )
    assert evaluate_detected(detector_store, replace(LOW, split="all")).calibration is None
    run, found = calibrated(detector_store)
    done = segment(detector_store, [tmp_path / "t004.tif"], replace(config, out=tmp_path / "other"))
    assert done.flagged is not None and done.calibration.startswith(f"{run}, cells below {found.review_below:.4f} are")
    scored = evaluate_detected(detector_store, replace(LOW, split="all"))
    shown = calibration(choose(detector_store, [scored.run]))
    used = f"{found.review_below:.4f}"
    assert shown is not None and shown.tables[-1].rows[0][2:] == (used, str(found.failures), "100", used)
    # a later calibration is the one that segment uses from then on
    newer = fit(rng.uniform(0, 1, (90, 4)), rng.random(90) < 0.6)
    keep(detector_store, prompts, newer)
    shown = calibration(choose(detector_store, [scored.run]))
    assert shown is not None
    assert shown.tables[-1].rows[0][2:] == (f"{newer.review_below:.4f}", str(newer.failures), "90", used)


def test_detected_prompts_are_scored_with_missed_cells_at_zero(detector_store: Store) -> None:
    run, found = calibrated(detector_store)
    assert load_calibration(load_run(detector_store.path, run)) == found
    result = evaluate_detected(detector_store, replace(LOW, split="all"))
    rows = detector_store.sql("select iou, is_empty, cell from cell_metrics where prompt = 'detected'").fetchall()
    cells = detector_store.sql("select count(*) from cells").fetchall()[0][0]
    assert len(rows) == result.cells == cells
    assert result.mean_iou == pytest.approx(np.mean([row[0] for row in rows]))
    assert all(row[0] == 0 for row in rows if row[1])
    assert result.cells == result.missed + round(result.recall * result.cells)
    assert result.calibration is not None and 0 <= result.calibration["ece"] <= 1
    told = json.loads(json.dumps(result.to_json()))
    assert (
        result.recall_before == result.recall
        and "SEG" in told["sequences"][0]
        and told["sequences"][0]["DET"] is not None
    )
    failures = detector_store.sql(
        "select iou, failure, hd95, diameter from cell_metrics where prompt = 'detected'"
    ).fetchall()
    assert all((failure == "empty") == (hd95 == diameter) for iou, failure, hd95, diameter in failures if iou == 0)
    assert all(row[1] is not None for row in failures)


@pytest.mark.ci
def test_recovered_cells_count_after_and_not_before(detector_store: Store) -> None:
    without = evaluate_detected(detector_store, replace(LOW, split="all"))
    result = evaluate_detected(detector_store, replace(LOW, split="all", recover=True))
    assert result.recall_before == pytest.approx(without.recall)
    assert result.recall == pytest.approx(result.recall_before + result.recovered_right / result.cells)
    run = detect(detector_store, split="val", device="cpu").run
    with pytest.raises(RunError, match="looked at split val, not at test"):
        evaluate_detected(detector_store, replace(LOW, detector=run))


def test_unseen_frames_become_label_images_and_the_rest_is_resumed(detector_store: Store, tmp_path: Path) -> None:
    calibrated(detector_store)
    seen = detector_store.pixels.image(_last(detector_store))
    folder = tmp_path / "new"
    folder.mkdir()
    tifffile.imwrite(folder / "t004.tif", seen)
    tifffile.imwrite(folder / "t005.tif", np.full((150, 333), 1000, np.uint16))  # another size, and empty
    config = SegmentConfig(out=tmp_path / "out", prompts=LOW)
    first = segment(detector_store, [folder / "t004.tif"], config)
    target = tmp_path / "out/new_RES/mask004.tif"
    label = tifffile.imread(target)
    assert label.dtype == np.uint16 and label.shape == seen.shape
    assert first.cells == label.max() > 0 and first.flagged is not None
    with Image.open(target.with_suffix(".png")) as image:
        assert image.size == seen.shape[::-1]
    before = target.stat().st_mtime_ns
    torn = [tmp_path / "out/.mask005.tif.abcd_012", tmp_path / "out/.cells/.cells.parquet.abcd_012"]
    for path in torn:  # of a process that was killed
        path.write_bytes(b"torn")
    second = segment(detector_store, [folder], config)
    assert not any(path.exists() for path in torn) and not list((tmp_path / "out").glob(".segment.*"))
    assert (second.frames, second.done_before, second.empty) == (2, 1, 1)
    assert target.stat().st_mtime_ns == before and not tifffile.imread(target.with_name("mask005.tif")).any()
    assert (tmp_path / "out/cells.csv").read_text().count("\n") == second.cells + 1
    with pytest.raises(StoreError, match="holds results of another threshold; choose another --out"):
        segment(detector_store, [folder], SegmentConfig(out=tmp_path / "out", prompts=DetectedConfig(threshold=0.9)))


def _last(store: Store) -> str:
    return list(store.frame_records())[-1]


def test_a_stack_is_a_sequence_and_bad_input_is_named(detector_store: Store, tmp_path: Path) -> None:
    stack = np.stack([detector_store.pixels.image(_last(detector_store))] * 2)
    tifffile.imwrite(tmp_path / "movie.tif", stack)
    config = SegmentConfig(out=tmp_path / "out", prompts=LOW, overlay=False)
    assert segment(detector_store, [tmp_path / "movie.tif"], config).frames == 2
    made = [tifffile.imread(tmp_path / f"out/movie_RES/mask00{i}.tif") for i in (0, 1)]
    assert (made[0] == made[1]).all()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(DatasetError, match="3 channels"):
        segment(detector_store, [tmp_path / "colour.png"], config)
    tifffile.imwrite(
        tmp_path / "deep.tif", np.zeros((3, 20, 20), np.uint16), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    with pytest.raises(DatasetError, match=r"no axis 't'.*Z"):
        segment(detector_store, [tmp_path / "deep.tif"], config)
    with pytest.raises(DatasetError, match="no such file"):
        segment(detector_store, [tmp_path / "none"], config)


def test_without_a_detector_segment_says_what_to_do(store: Store, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t000.tif", np.zeros((30, 30), np.uint16))
    with pytest.raises(RunError, match=r"no trained detector.*--generic"):
        segment(store, [tmp_path / "t000.tif"], SegmentConfig(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.ci
def test_no_cell_is_left_out_however_many_there_are() -> None:
    # one more than 16 bits number, each of one pixel
    side = 256
    found = [cell(i, i % side, i // side, 1, 0.5) for i in range(2**16)]
    label, kept = resolve(found, (side, side))
    assert len(kept) == 2**16 and label.max() == 2**16 and (label > 0).all()
