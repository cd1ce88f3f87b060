"""What commands say at their end: a verdict, and the command to type next."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from console import Run
from hela_store_cli.verdicts import calibration, detector, faster, fine_tuning, helped, interval

import hela_store as hs
from hela_store.evaluation.checkpoint import resolve_checkpoint
from hela_store.evaluation.scores import PromptScore
from hela_store.runs.default import default_run
from hela_store.sam.rate import proposed_precision
from hela_store.segmentation.calibration import Calibration
from hela_store.store.store import Store
from hela_store.training.finetune import FinetuneResult

QUICK = ("--steps", 2, "--evaluate-every", 1, "--cells", 2, "--workers", 0)


@pytest.fixture
def mine(scored: Path, tmp_path: Path) -> Path:
    """Return a copy of the scored store, to be written to."""
    return shutil.copytree(scored, tmp_path / "mine")


def test_an_evaluation_says_what_fine_tuning_changed(run: Run, mine: Path) -> None:
    tuned = next(path.name for path in (mine / "runs").iterdir() if "-finetune-" in path.name)
    seeds = ("--prompt-seeds", 2, "--prompt", "box", "--prompt", "point", "--prompt", "mask")
    done = run("evaluate", "-s", mine, "--run", tuned, *seeds).stdout
    for kind in ("box", "point", "mask"):
        assert f"with {kind}: IoU 0." in done
    assert " -> 0." in done and done.splitlines()[-1] == f"Next: hela-store detect train -s {mine}"
    assert max(map(len, done.split("Fine-tuning")[0].splitlines())) <= 80 + len(tuned)
    assert "n counts prompts: up to 2 for each cell" in done
    zero = run("evaluate", "-s", mine, "--zero-shot", *seeds).stdout
    assert "Fine-tuning" not in zero


def test_an_interval_beyond_what_is_possible_is_not_printed() -> None:
    assert interval(0.032, 0.028, 0.036, 0.9) == "+0.032, 95 % +0.028 to +0.036"
    too_wide = "+0.036; the 95 % interval reaches beyond possible scores"
    assert interval(0.036, -0.181, 0.254, 0.881) == too_wide
    assert interval(0.036, -0.5, 0.1, 0.4) == too_wide
    assert interval(0.036, -0.181, 0.254) == "+0.036, 95 % -0.181 to +0.254"
    assert interval(0.02, float("nan"), float("nan"), 0.9) == "+0.020, without an interval"


def test_a_change_that_is_above_zero_is_never_called_none() -> None:
    # the interval +0.001 to +0.004 is equivalent, and not nothing
    assert helped("equivalent", 0.0025) == "kept the mean within 0.005"
    assert [helped(word, 0.02) for word in ("better", "worse", "undecided")] == [
        "helped",
        "made masks worse",
        "raised the mean",
    ]


def scores(iou: float) -> PromptScore:
    return PromptScore(n=90, mean_iou=iou, mean_dice=iou, empty=0.0, image_free_iou=0.5, image_free_dice=0.5, skill=0.5)


@pytest.mark.parametrize(
    ("verdict", "budget", "said"),
    [
        ("better", 0, "A verdict is about this training; with another training seed it may differ."),
        ("", 0, "With 9 validation frames that is a mean, and no verdict."),
        ("", 20, "That is a mean and no verdict: the same cells chose the training step and judged it."),
    ],
)
def test_a_fine_tuning_has_a_verdict_or_says_why_it_has_none(
    verdict: str, budget: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers: dict[str, Any] = {"mean_change": 0.03, "low": 0.02, "high": 0.04, "better": 0.8, "worse": 0.1}
    found = FinetuneResult(
        run="r", prompt="box", zero_shot=scores(0.85), tuned=scores(0.88), by_kind={}, best_step=3, verdict=verdict,
        frames=9, kinds={}, units="", budget=budget, **numbers,
    )  # fmt: skip
    fine_tuning(found)
    told = capsys.readouterr().out.replace("\n", " ")
    assert said in told and found.accepted
    assert told.startswith("Fine-tuning helped" if verdict else "Fine-tuning raised the mean")


def test_a_detector_that_finds_little_is_not_passed_on_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    detector(0.9)
    assert capsys.readouterr().out == ""
    detector(0.16)
    said = capsys.readouterr().out
    assert "F1 0.160" in said and "--start generic" in said and max(map(len, said.splitlines())) <= 80


def test_a_calibration_is_told_in_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    four = (0.5, 0.5, 0.5, 0.5)
    found = Calibration(mean=four, scale=four, weights=four, bias=0.0, review_below=0.0037, cells=96, failures=60)
    calibration("r", found)
    said = capsys.readouterr().out
    assert "60 of 96 cells that the detector found have a wrong mask (IoU below 0.5)" in said.replace("\n", " ")
    assert "0.0037" in said and said.splitlines()[-1] == "Next: hela-store segment FRAMES"


def test_after_a_zero_shot_score_the_fine_tuned_decoder_is_next(run: Run, mine: Path) -> None:
    asked = ("evaluate", "-s", mine, "--zero-shot", "--prompt", "box", "--prompt-seeds", 2)
    tuned = default_run(mine, Store.open(mine).key)
    assert tuned is not None
    assert run(*asked).stdout.splitlines()[-1] == f"Next: hela-store evaluate --prompt box --split test -s {mine}"
    shutil.rmtree(mine / "runs" / tuned.id)
    assert run(*asked).stdout.splitlines()[-1] == f"Next: hela-store finetune -s {mine}"


def test_it_is_said_where_the_scored_frames_chose_as_well(run: Run, mine: Path, detected: Path, tmp_path: Path) -> None:
    step, threshold = "chose the training step", "threshold was chosen on these frames"
    score = ("evaluate", "-s", mine, "--prompt", "box-exact", "--prompt-seeds", 1, "--split")
    assert step in run(*score, "val").stdout and step not in run(*score, "test").stdout
    store = hs.Store.open(mine)
    own = store.add_run(resolve_checkpoint(store, None).load_decoder(), name="from elsewhere")
    assert step not in run(*score, "val", "--run", own).stdout
    find = ("detect", "evaluate", "-s", shutil.copytree(detected, tmp_path / "found"), "--split")
    assert threshold in run(*find, "val").stdout and threshold not in run(*find, "test").stdout
    assert threshold not in run(*find, "val", "--threshold", 0.123).stdout
    masks = run("evaluate", "-s", tmp_path / "found", "--zero-shot", "--prompt", "detected", "--split", "val").stdout
    assert "Without a prompt " in masks and "have a mask of IoU 0.5 or more" in masks.replace("\n", " ")
    assert masks.splitlines()[-1].startswith("Next: hela-store report ")


def test_one_validation_frame_is_said_to_be_too_few(run: Run, embedded: Path, tmp_path: Path) -> None:
    blocks = ("--train-frames", "0-3", "--val-frames", "5-5", "--test-frames", "7-7")
    found = run("new", "one", "--dataset", embedded / "data", "--tile", "none", *blocks).stdout
    assert "one validation frame is too few" in found and "Next: hela-store embed -s one" in found
    assert "nano is poor" not in found


def test_a_fine_tuning_that_changed_nothing_says_what_to_try(run: Run, mine: Path) -> None:
    done = run("finetune", "-s", mine, "--lr", "1e-12", *QUICK).stdout
    assert "Fine-tuning changed nothing; try a higher --lr or more --steps." in done or "too few to say" in done
    last = done.splitlines()[-1]
    assert last.startswith("Next: hela-store ") and f"-s {mine}" in last
    assert "evaluate" not in last or "--split val" in last, "test frames are scored when nothing is left to choose"


def test_every_other_command_ends_with_the_next_step(run: Run, scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "s")
    evaluations = sorted(path.name for path in (tmp_path / "s/runs").iterdir() if "-evaluate-" in path.name)
    where = tmp_path / "s"
    lines = {
        ("verify",): "info",
        ("labels", "log"): "teach",
        ("labels", "diff", "0", "latest"): "labels log",
        ("detect", "describe"): "detect train",
        ("baseline", "image-free", "--prompt", "box", "--prompt-seeds", "1"): "report",
        ("baseline", "image-free", "--prompt", "box", "--prompt-seeds", "1", "--split", "val"): "evaluate --split val",
        ("catalog", "rebuild"): "report",
        ("augment", "preview", "--out", "a.png"): "embed",
        ("compare", *evaluations[:2]): f"report {' '.join(evaluations[:2])}",
        ("export", "coco", evaluations[0], "--prompt", "box", "--out", "a.json"): f"report {evaluations[0]}",
    }
    for words, told in lines.items():
        assert run(*words, "-s", where).stdout.splitlines()[-1] == f"Next: hela-store {told} -s {where}"


def test_a_damaged_store_is_told_how_to_mend_it(run: Run, store: Store) -> None:
    (chunk, *_) = sorted((store.path / "arrays.zarr/embeddings").glob("*/embedding/c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-9])
    done = run("verify", "-s", store.path, code=1).stdout
    assert done.splitlines()[-1] == f"Next: hela-store verify --repair -s {store.path}"


@pytest.mark.ci
def test_the_report_names_what_was_scored_on_another_block(run: Run, scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored, tmp_path / "s")
    run("evaluate", "-s", tmp_path / "s", "--zero-shot", "--prompt", "point-centre", "--split", "val")
    done = run("report", "-s", tmp_path / "s", "--out", "r.html")
    assert "left out, because this report is of test frames: zero-shot on validation frames (" in done.stderr


def test_a_faster_precision_is_proposed_only_where_there_is_one_and_it_was_not_chosen() -> None:
    first, second = faster(proposed_precision("cuda", 9), "float32")
    assert first.startswith("Advice: ") and "bfloat16" in first and "--precision bfloat16" in second
    assert list(faster("bfloat16", "bfloat16")) == list(faster(proposed_precision("cpu"), "float32")) == []


@pytest.mark.ci
def test_new_says_which_parts_of_the_split_are_empty(run: Run) -> None:
    done = run("new", "cells", "--dataset", "synthetic", "--val-frames", "3-5").stdout
    assert "split        train 0, val 3, test 0" in done
    assert "Advice: no frame is in train or test, so not every command can work." in done
