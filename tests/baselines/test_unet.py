"""The U-Net baseline: what it learns, its cells, its runs, and that a killed training ends in the same weights."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from on_device import SLOW_ON_CPU, UNREPEATABLE, Operators, straight_and_resumed

import hela_store.baselines.unet as module
from hela_store.baselines.config import UnetConfig
from hela_store.baselines.unet import RATES, choose_rate, result_of, summed_cross_entropy, trained, unet
from hela_store.baselines.unet_crops import CROP, Crops, seen, shrunk, shrunk_labels
from hela_store.baselines.unet_labels import BACKGROUND, BORDER, IGNORED, NUCLEUS, TRIED, USUAL, cells, targets
from hela_store.baselines.unet_network import load_network, new_network, probabilities
from hela_store.embedding.record import threads
from hela_store.errors import RecipeError, RunError, SplitError
from hela_store.evaluation.sequences import run_labels, sequence_scores
from hela_store.metrics.ctc import match_frame, seg
from hela_store.runs.folder import partial_runs, run_ids
from hela_store.sam.devices import repeatable
from hela_store.store.store import Store
from hela_store.training.loading import load

QUICK = UnetConfig(steps=2, batch=1, evaluate_every=1, workers=0, device="cpu")
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from hela_store.baselines.unet import UnetConfig, train_unet
from hela_store.store.store import Store

def progress(iterable, *, total, what):
    for number, item in enumerate(iterable):
        if what == "train U-Net" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

config = UnetConfig(steps=2, batch=1, evaluate_every=1, workers=0, device="cpu")
train_unet(Store.open(sys.argv[1]), config, progress=progress)
"""


def discs() -> np.ndarray:
    rows, columns = np.mgrid[:80, :120]
    label = np.zeros((80, 120), np.int32)
    for number, (x, y) in enumerate([(20, 30), (38, 30), (90, 50)], 1):
        label[np.hypot(rows - y, columns - x) < 10] = number
    return label


def test_perfect_probabilities_give_the_cells_back() -> None:
    label = discs()
    classes = targets(label, np.ones(label.shape, bool))
    assert set(np.unique(classes)) == {BACKGROUND, NUCLEUS, BORDER} and ((classes > 0) == (label > 0)).all()
    assert (classes[30, 29] == BORDER) and (classes[30, 20] == NUCLEUS)  # where two touch, and the middle of one
    sure = np.eye(3, dtype=np.float32)[classes].transpose(2, 0, 1)
    found = cells(sure, USUAL, median_area=300)
    assert found.max() == 3 and seg([match_frame(label, found)]) > 0.98
    assert not cells(np.eye(3, dtype=np.float32)[0 * classes].transpose(2, 0, 1), USUAL, 300).any()
    assert cells(sure, USUAL, median_area=1e5).max() == 0


def test_pixels_that_say_nothing_have_no_class_and_no_part_in_the_loss(store: Store) -> None:
    label, valid = discs(), np.ones((80, 120), bool)
    valid[:, 60:] = False
    classes = targets(label, valid)
    assert (classes[:, 60:] == IGNORED).all() and (classes[:, :60] != IGNORED).all()
    crops = Crops(store, ["01/t000", "01/t001"], shrink=1.0, size=2, seed=0, first=4, count=2)
    image, classes_BHW = crops[1]
    again = Crops(store, ["01/t000", "01/t001"], shrink=1.0, size=2, seed=0, first=5, count=1)[0]
    assert torch.equal(image, again[0]) and torch.equal(classes_BHW, again[1])  # of (seed, step) alone
    assert image.shape == (2, 1, CROP, CROP) and (classes_BHW == IGNORED).float().mean() >= 0.25  # frames of 192 rows


@pytest.mark.ci
def test_large_cells_are_seen_smaller_and_answered_at_full_size(store: Store) -> None:
    whole = seen(store.pixels.image("01/t000"), store)
    small = shrunk(whole, 0.4)
    assert small.shape == (77, 102) and abs(float(small.mean() - whole.mean())) < 0.01
    assert shrunk_labels(store.pixels.label("01/t000"), small.shape).shape == small.shape
    answer = probabilities(new_network().eval(), small, whole.shape)
    assert answer.shape == (3, 192, 256) and np.allclose(answer.sum(0), 1, atol=1e-5)


def test_the_summed_cross_entropy_is_torchs_forwards_and_backwards(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BY_SUMS", ("cpu", "cuda"))
    rng = torch.Generator().manual_seed(0)
    given, weight = torch.randn(2, 3, 9, 7, generator=rng), torch.tensor([1.0, 1.0, 3.0])
    classes = torch.randint(0, 3, (2, 9, 7), generator=rng)
    classes[:, :3] = IGNORED
    theirs, ours = given.clone().requires_grad_(True), given.to(device).requires_grad_(True)
    expected = torch.nn.functional.cross_entropy(theirs, classes, weight, ignore_index=IGNORED, reduction="sum")
    with repeatable(device), Operators() as used:
        found = summed_cross_entropy(ours, classes.to(device), weight.to(device))
        found.backward()
    expected.backward()
    assert theirs.grad is not None and ours.grad is not None and not used.names & UNREPEATABLE
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-5, atol=1e-6)
    assert not ours.grad[:, :, :3].any()


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_steps_end_in_the_same_bits_twice_and_resumed(store: Store, device: torch.device) -> None:
    config = replace(QUICK, steps=2, device=str(device))

    def batches(which: range) -> Iterator[Any]:
        return load(Crops(store, ["01/t000"], shrink=1.0, size=1, seed=0, first=which.start, count=len(which)), 0)

    task = module._Task(validation=None)  # type: ignore[arg-type]  # nothing is validated
    straight, resumed = straight_and_resumed(store.path, lambda: module._new_training(config), task, batches)
    assert all(torch.equal(value, resumed[name].to(value.device)) for name, value in straight.items())


@pytest.mark.slow  # test_train.py of detection and test_finetune.py have short forms of the same trainer
@threads(1)  # of the killed process, too: the last bits follow from their number
def test_a_killed_training_ends_in_the_same_weights_and_its_scores_are_a_run(store: Store, tmp_path: Path) -> None:
    done = forked.run([sys.executable, "-c", KILLED, store.path], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = partial_runs(store.path)
    first = unet(store, QUICK)
    info = trained(store, QUICK)
    assert info is not None and info.id == left and partial_runs(store.path) == []
    assert [row["step"] for row in info.log() if "loss" in row] == [1, 2]
    again = unet(store, QUICK, split="val")
    assert len(run_ids(store.path)) == 3 and again.config["checkpoint"] == first.config["checkpoint"] == info.id

    rows = store.sql(f"select * from cell_metrics where run = '{first.run}'").df()
    wanted = store.sql("select cell from cells where frame = '01/t007'").df()
    assert sorted(rows.cell) == sorted(wanted.cell) and set(rows.prompt) == {"none"}
    assert sequence_scores(run_labels(store, first.run)).suffix == ""
    assert result_of(info)["parameters"] in [vars(p) for p in TRIED]
    scorings = store.sql("select checkpoint, scorings from test_scorings").fetchall()
    assert scorings == [(info.id, 1)]  # the training looked at train and val alone

    killed = load_network(info.weights, torch.device("cpu"))[0].state_dict()
    for path in (store.path / "runs").glob("*-unet-seed-0-*"):
        path.rename(tmp_path / path.name)
    unet(store, QUICK, split="val")
    whole = trained(store, QUICK)
    assert whole is not None and whole.id != info.id
    other = load_network(whole.weights, torch.device("cpu"))[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in killed.items())

    whole.weights.write_bytes(b"no weights")
    with pytest.raises(RunError, match=r"weights.safetensors changed since it was published"):
        unet(store, QUICK)


@pytest.mark.ci
def test_the_rate_is_chosen_on_validation_and_the_same_call_makes_no_second_run(store: Store) -> None:
    config, tried = choose_rate(store, replace(QUICK, steps=1))
    assert tuple(tried) == RATES and tried[config.lr] == max(tried.values())
    done = unet(store, config, rates=tried)
    assert done.config["rates"] == {f"{rate:g}": seg for rate, seg in tried.items()}
    assert done.config["spent"]["steps"] == 1 and "cost: 1 steps, " in done.spent()
    again = unet(store, config, rates=tried)
    assert again.reused and again.run == done.run and len(run_ids(store.path)) == 4
    other = unet(store, config, fresh=True)
    assert other.run != done.run and len(run_ids(store.path)) == 6  # a training and its scores


def test_what_cannot_be_trained_is_refused(store: Store) -> None:
    with pytest.raises(RecipeError, match="steps is 0"):
        UnetConfig(steps=0)
    with pytest.raises(RecipeError, match="lr is nan"):
        UnetConfig(lr=float("nan"))
    with pytest.raises(RecipeError, match="lr is 1e\\+300, expected at most 1 and a positive number such as 1e-3"):
        UnetConfig(lr=1e300)
    with pytest.raises(SplitError):
        unet(store, QUICK, split="tests")


@pytest.mark.slow
def test_it_learns(store: Store) -> None:
    done = unet(store, UnetConfig(steps=80, batch=2, workers=0, device="cpu"))
    assert done.prompts["none"]["mean_iou"] > 0.6
