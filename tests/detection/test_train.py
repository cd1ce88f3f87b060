"""The grid head's training: a killed one ends in the same weights, and what it keeps."""

from __future__ import annotations

import importlib
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from on_device import UNREPEATABLE, Operators, straight_and_resumed
from safetensors.torch import load_file

from hela_store.detection.config import DetectorConfig
from hela_store.detection.data import DetectionViews
from hela_store.detection.train import WARMUP, HeadTask, head_plan, new_training, train_detector
from hela_store.embedding.record import threads
from hela_store.errors import RunError
from hela_store.runs.folder import RunInfo, load_run, partial_runs
from hela_store.sam.devices import repeatable
from hela_store.store.store import Store

QUICK = DetectorConfig(steps=6, batch=2, workers=0, evaluate_every=2, device="cpu")
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from hela_store.detection.train import DetectorConfig, train_detector
from hela_store.store.store import Store

def progress(iterable, *, total, what):
    for number, item in enumerate(iterable):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
    os.kill(os.getpid(), signal.SIGKILL)

config = DetectorConfig(steps=6, batch=2, workers=2, evaluate_every=2, device="cpu")
train_detector(Store.open(sys.argv[1]), config, progress=progress)
"""


def lines(run: RunInfo) -> list[dict[str, Any]]:
    return [row for row in run.log() if "loss" in row]


@pytest.fixture(scope="module")
def straight(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInfo:
    """Return a training that nothing interrupted."""
    path = tmp_path_factory.mktemp("straight") / "store"
    shutil.copytree(embedded, path)
    with threads(1):
        return load_run(path, train_detector(Store.open(path), QUICK).run)


@pytest.mark.ci
@pytest.mark.parametrize(
    "killed_at",
    [
        pytest.param(5, id="between two validations"),
        pytest.param(6, id="before it was published", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_in_the_same_weights(store: Store, straight: RunInfo, killed_at: int) -> None:
    command = [sys.executable, "-c", KILLED, str(store.path), str(killed_at)]
    done = forked.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = partial_runs(store.path)
    with threads(1):
        result = train_detector(store, QUICK)
    assert result.run == left and partial_runs(store.path) == []
    run = load_run(store.path, left)
    first, second = load_file(straight.weights), load_file(run.weights)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert lines(run) == lines(straight) and [row["step"] for row in lines(run)] == [2, 4, 6]
    told = straight.log()[-1]["result"] | {"run": left, "seconds": result.seconds}
    assert result.to_json() == told and not (run.path / "state.safetensors").exists()


def steps(store: Store, device: torch.device) -> tuple[DetectionViews, HeadTask, DetectorConfig]:
    config = replace(QUICK, variants=0, device=str(device))
    return DetectionViews(store, seed=0, variants=0), HeadTask(store=store, frames=()), config


def test_steps_end_in_the_same_bits_twice_and_resumed(store: Store, device: torch.device) -> None:
    views, task, config = steps(store, device)

    def batches(which: range) -> Iterable[Any]:
        return views.batches(which, config.batch, 0)

    straight, resumed = straight_and_resumed(store.path, lambda: new_training(views, config), task, batches)
    assert all(torch.equal(value, resumed[name].to(value.device)) for name, value in straight.items())


def test_a_device_computes_the_loss_that_a_cpu_does_and_can_repeat_it(store: Store, device: torch.device) -> None:
    found = {}
    for where in (torch.device("cpu"), device):
        views, task, config = steps(store, where)
        head = new_training(views, config).network.train()
        with repeatable(where), Operators() as used:
            (batch,) = views.batches(range(1), config.batch, 0)
            found[where] = float(task.learn(head, batch))
        assert "convolution_backward" in used.names and not used.names & UNREPEATABLE
    assert found[device] == pytest.approx(found[torch.device("cpu")], rel=1e-3)


@pytest.mark.ci
def test_one_that_had_ended_early_does_not_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, steps=9, evaluate_every=1, lr=1e-12)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("hela_store.detection.train"), "save_head", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_detector(store, config)
    monkeypatch.undo()
    result = train_detector(store, replace(config, workers=1))
    assert [row["step"] for row in lines(load_run(store.path, result.run))] == list(range(1, QUICK.patience + 2))
    assert result.best_step == 1 and result.seconds > 0


@pytest.mark.ci
def test_another_configuration_begins_anew_and_a_damaged_state_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("hela_store.detection.train"), "save_head", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_detector(store, QUICK)
    monkeypatch.undo()
    (left,) = partial_runs(store.path)
    assert train_detector(store, replace(QUICK, seed=1)).run != left
    assert partial_runs(store.path) == [left]
    state = store.path / "runs" / f".{left}.partial" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RunError, match=r"is damaged.*start the run again"):
        train_detector(store, QUICK)


def test_a_loss_that_is_not_finite_stops_at_the_last_good_weights(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, calls = importlib.import_module("hela_store.detection.train"), []
    real = module.head_loss

    def poisoned(*args: Any) -> torch.Tensor:
        calls.append(args)
        return real(*args) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(module, "head_loss", poisoned)
    with pytest.raises(RunError, match="the detector's loss became nan at step 3; lower --lr"):
        train_detector(store, QUICK)
    (left,) = partial_runs(store.path)
    state = load_file(store.path / "runs" / f".{left}.partial" / "state.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert train_detector(store, QUICK).run == left


def test_a_batch_is_of_its_step_alone(store: Store) -> None:
    views = DetectionViews(store, seed=3)
    whole = [batch[0] for batch in views.batches(range(4), 2, 0)]
    late = [batch[0] for batch in views.batches(range(2, 4), 2, 1)]
    assert len(whole) == 4 and all(torch.equal(one, other) for one, other in zip(whole[2:], late, strict=True))
    assert list(views.batches(range(4, 4), 2, 0)) == []


def test_few_views_do_not_end_a_training_while_the_learning_rate_still_rises() -> None:
    plan = head_plan(DetectorConfig(), views=6)  # an epoch is one step
    assert plan.patience * plan.evaluate_every >= 2 * WARMUP
    assert head_plan(DetectorConfig(), views=330).evaluate_every == 82
    assert head_plan(DetectorConfig(steps=8), views=6).evaluate_every == 2
