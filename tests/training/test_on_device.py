"""Fine-tuning on a CPU and on a GPU: the same loss, the same bits twice, and few waits for the device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from on_device import SLOW_ON_CPU, UNREPEATABLE, Operators, never_waits, straight_and_resumed, waits
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.sam import resize
from hela_store.sam.devices import repeatable
from hela_store.store.store import Store
from hela_store.training import step as step_module
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import TrainingSteps
from hela_store.training.finetune import finetune, resolve, source_of
from hela_store.training.learner import Learner, new_learner
from hela_store.training.step import step_loss, training_windows
from hela_store.training.trainer import Plan, Trainer
from hela_store.training.tuning import TuningTask, new_tuning

DECODER = {"steps": 4, "cells": 3, "workers": 0, "window": 8, "refine": 0.0, "clicks": 1}
WAYS: dict[str, dict[str, Any]] = {
    "box": {"prompt": "box"},
    "point, all masks": {"prompt": "point", "masks": "all"},
    "mask": {"prompt": "mask", "loss": "hausdorff-convolution", "loss_ramp": 0.0},
    "decoder": {"prompt": "box", "adapt": "decoder"},
    "encoder": {"prompt": "box", "adapt": "encoder", "cut": 3},
    "conv": {"prompt": "box", "adapt": "encoder", "cut": 3, "conv": True, "rank": 2},
}


SLOW = pytest.mark.slow
PLAN = Plan(what="fit", steps=3, rate=lambda step: 1e-3, clip=1.0)


@pytest.fixture(scope="module")
def trunk(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small store with the tokens after three of nano's four blocks, too. Not to be changed."""
    path = tmp_path_factory.mktemp("trunk") / "store"
    shutil.copytree(embedded, path)
    embed(Store.open(path), EmbedConfig(cut=3, limit=1, device="cpu"))
    return path


class Tuning:
    """A fine-tuning of the small store, of which single steps are taken."""

    def __init__(self, path: Path, device: torch.device, **how: Any) -> None:
        self.store = Store.open(path)
        self.config = resolve(self.store, FinetuneConfig.of(**DECODER | how)).config
        self.source, self.device = source_of(self.store, self.config), device
        self.task = TuningTask(config=self.config)

    def learner(self) -> Learner:
        return new_learner(self.source, self.config, self.device, init=None).train()

    def steps(self, which: range) -> Any:
        count, cells = len(which), self.config.prompts.cells
        steps = TrainingSteps(self.source, self.config.prompt, cells=cells, seed=0, first=which.start, count=count)
        return ([steps[index]] for index in range(count))


@pytest.mark.parametrize("way", ["box", "mask", "encoder"])
def test_a_device_computes_the_loss_that_a_cpu_does(trunk: Path, device: torch.device, way: str) -> None:
    losses = []
    for where in (torch.device("cpu"), device):
        tuning = Tuning(trunk, where, **WAYS[way])
        learner, ((step,),) = tuning.learner(), tuning.steps(range(1))
        with repeatable(where):
            seen = {"embedding": learner.embed(step.embedding.to(where))}
            losses.append(
                step_loss(learner.decoder, step.__class__(**vars(step) | seen), tuning.config)[0].detach().cpu()
            )
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_has_no_operation_that_a_gpu_cannot_repeat(
    trunk: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "BY_PRODUCTS", ("cpu",))
    tuning = Tuning(trunk, torch.device("cpu"), **WAYS[way])
    learner = tuning.learner()
    with Operators() as used:
        tuning.task.learn(learner, next(iter(tuning.steps(range(1)))))
    assert "native_layer_norm_backward" in used.names and not used.names & UNREPEATABLE


def test_it_finds_the_interpolation_that_a_gpu_cannot_repeat(trunk: Path) -> None:
    tuning = Tuning(trunk, torch.device("cpu"))
    with Operators() as used:
        tuning.task.learn(tuning.learner(), next(iter(tuning.steps(range(1)))))
    assert used.names & UNREPEATABLE == {"upsample_bilinear2d_backward"}


@pytest.mark.parametrize(
    "way", ["box", "point, all masks", pytest.param("encoder", marks=SLOW), pytest.param("conv", marks=SLOW)]
)
def test_steps_end_in_the_same_bits_twice_and_resumed(
    trunk: Path, device: torch.device, way: str, tmp_path: Path
) -> None:
    tuning = Tuning(trunk, device, **WAYS[way])
    straight, resumed = straight_and_resumed(
        tmp_path, lambda: new_tuning(tuning.learner(), tuning.config), tuning.task, tuning.steps
    )
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name].to(value.device)) for name, value in straight.items())


@pytest.mark.parametrize("way", ["box", "point, all masks", "mask", pytest.param("conv", marks=SLOW)])
def test_a_step_waits_for_the_gpu_once_behind_all_of_it(trunk: Path, device: torch.device, way: str) -> None:
    tuning = Tuning(trunk, device, **WAYS[way])
    learner, (first, second, third) = tuning.learner(), tuning.steps(range(3))
    trainer = Trainer(state=new_tuning(learner, tuning.config), plan=PLAN, task=tuning.task, folder=None)
    with repeatable(device):
        trainer._step(first)
        with never_waits(device):
            tuning.task.learn(learner, second)
        with waits(device) as found:
            trainer._step(third)
    assert len(found) <= 1, found


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("way", ["box", "point, all masks", "mask"])
def test_a_step_reads_no_value_and_mixes_no_devices(trunk: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a step with tensors that have a device and a shape but no values: whoever asks for one is told so."""
    tuning = Tuning(trunk, torch.device("cpu"), **WAYS[way])
    learner, (views,) = tuning.learner(), tuning.steps(range(1))
    (view,), window = views, tuning.config.prompts.window
    assert window is not None
    sizes = training_windows(view.prompts, view.truth, view.labels, window)  # on the CPU, before the GPU is asked
    monkeypatch.setattr(step_module, "training_windows", lambda *_: sizes)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: loss)  # which wants a device that is there
    monkeypatch.setattr(resize, "_weights", resize._weights.__wrapped__)  # which would keep such tensors for others
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = tuning.task.learn(learner.to("cuda"), views)
        assert (found.device.type, found.shape) == ("cuda", (len(view.cells) + 1,))
        with pytest.raises(DataDependentOutputException):
            found.sum().item()


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_loader_processes_start_after_the_device_was_used(store: Store, device: torch.device) -> None:
    torch.ones(1, device=device).sum().item()
    config = FinetuneConfig.of(
        **DECODER | {"workers": 2, "evaluate_every": 4, "validation_cells": 2, "device": str(device)}
    )
    assert finetune(store, config).run
