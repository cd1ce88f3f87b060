"""The trainer on a network of one layer: stopping, saving, resuming, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hela_store.base.progress import silent
from hela_store.errors import RunError
from hela_store.runs.folder import RunFolder
from hela_store.training import trainer as module
from hela_store.training.trainer import (
    STATE,
    NotFinite,
    Plan,
    Trainer,
    Training,
    Verdict,
    adamw,
    load_training,
    open_run,
    save_training,
)

T = TypeVar("T")
CONFIG: dict[str, Any] = {"seed": 0, "workers": 2}
PLAN = Plan(what="fit", steps=7, rate=lambda step: 0.1 / (1 + step), clip=1.0, evaluate_every=3)


@dataclass(kw_only=True)
class Task:
    """Regression to 1; ``scores`` are given out one by one."""

    scores: list[float]
    poisoned: int = -1

    def learn(self, network: nn.Module, batch: tuple[int, Tensor]) -> Tensor:
        assert network.training
        number, x = batch
        loss = (network(x) - 1).square().mean() * (float("nan") if number == self.poisoned else 1)
        loss.backward()
        return loss.detach()[None]

    def loss(self, batch: tuple[int, Tensor], values: list[float]) -> float:
        (loss,) = values
        if math.isnan(loss):
            raise NotFinite("the loss became nan", self.where(batch))
        return loss

    def validate(self, network: nn.Module) -> Verdict:
        assert not network.training
        score = self.scores.pop(0)
        return Verdict(score=score, row={"score": score}, best_as="best")

    def where(self, batch: tuple[int, Tensor]) -> str:
        return f"batch {batch[0]}"


def new_training(ema: float = 0.0) -> Training[nn.Module]:
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    return Training(network=network, optimizer=torch.optim.AdamW(network.parameters(), lr=1.0), ema=ema)


def batches(steps: range) -> Iterator[tuple[int, Tensor]]:
    for step in steps:
        yield step, torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def opened(path: Path) -> RunFolder:
    return open_run(path, "unet", CONFIG, label="x")


def trained(path: Path, task: Task, plan: Plan = PLAN, ema: float = 0.0) -> tuple[Training[nn.Module], RunFolder]:
    state, folder = new_training(ema), opened(path)
    with folder.tidied(resumable=True):
        state.resume(folder)
        trainer = Trainer(state=state, plan=plan, task=task, folder=folder)
        trainer.run(batches(trainer.left), silent)
    folder.close()
    return state, folder


def test_the_best_weights_are_kept_and_every_line_says_the_rate(tmp_path: Path) -> None:
    state, folder = trained(tmp_path, Task(scores=[0.5, 0.9, 0.7]))
    assert (state.best_step, state.best_score, state.stale, state.step) == (6, 0.9, 1, 7)
    rows = folder.info.log()
    assert [(row["step"], row["score"], row["best"]) for row in rows] == [(3, 0.5, 0.5), (6, 0.9, 0.9), (7, 0.7, 0.9)]
    assert [row["lr"] for row in rows] == [PLAN.rate(step) for step in (2, 5, 6)]
    assert not torch.equal(state.best["weight"], state.weights()["weight"])


def test_lines_without_a_validation_have_the_losses_since_the_last(tmp_path: Path) -> None:
    _, folder = trained(tmp_path, Task(scores=[0.5]), replace(PLAN, evaluate_every=7, log_every=3))
    assert [(row["step"], "score" in row) for row in folder.info.log()] == [(3, False), (6, False), (7, True)]


def test_a_plan_without_validations_trains_all_steps_and_says_its_own_way_out() -> None:
    plan = replace(PLAN, evaluate_every=0, way_out="audit with another --seed")
    state = new_training()
    before = state.weights()
    Trainer(state=state, plan=plan, task=Task(scores=[]), folder=None).run(batches(range(7)), silent)
    assert (state.step, state.best_step) == (7, 0) and not torch.equal(state.weights()["weight"], before["weight"])
    trainer = Trainer(state=new_training(), plan=plan, task=Task(scores=[], poisoned=2), folder=None)
    with pytest.raises(RunError, match=r"the loss became nan at step 2 \(batch 2\); audit with another --seed$"):
        trainer.run(batches(range(7)), silent)


@pytest.mark.parametrize(("margin", "steps"), [(0.0, 6), (0.05, 4)])
def test_it_stops_early_and_does_not_go_on_when_resumed(tmp_path: Path, margin: float, steps: int) -> None:
    plan = replace(PLAN, evaluate_every=1, patience=3, margin=margin, steps=20)
    scores = [0.5, 0.51, 0.52, 0.1, 0.1, 0.1]
    state, _ = trained(tmp_path, Task(scores=list(scores)), plan)
    assert state.step == steps and state.stale == 3
    again, _ = trained(tmp_path, Task(scores=[]), plan)
    assert again.step == steps


def test_the_bar_says_that_a_training_may_stop_early_or_was_resumed() -> None:
    told = []

    def record(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        told.append(what)
        return iter(iterable)

    for patience, step in ((0, 0), (3, 0), (3, 2)):
        state, plan = new_training(), replace(PLAN, evaluate_every=0, patience=patience)
        state.step = step
        Trainer(state=state, plan=plan, task=Task(scores=[]), folder=None).run(batches(range(step, 7)), record)
    assert told == ["fit", "fit, may stop early", "fit, resumed at step 2, may stop early"]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_an_interrupted_training_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, ema: float
) -> None:
    whole, straight = trained(tmp_path / "straight", Task(scores=[0.1, 0.3, 0.2]), ema=ema)
    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)

    def interrupted(steps: range) -> Iterator[tuple[int, Tensor]]:
        yield from batches(range(steps.start, killed_at))
        raise KeyboardInterrupt

    state, folder = new_training(ema), opened(tmp_path)
    scores = [0.1, 0.3, 0.2]
    trainer = Trainer(state=state, plan=PLAN, task=Task(scores=scores), folder=folder)
    with pytest.raises(KeyboardInterrupt), folder.tidied(resumable=True):
        trainer.run(interrupted(range(7)), silent)
    resumed, again = trained(tmp_path, Task(scores=scores), ema=ema)
    assert again.id == folder.id and again.info.log() == straight.info.log()
    for mine, theirs in ((resumed.weights(), whole.weights()), (resumed.best, whole.best), (resumed.mean, whole.mean)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert bool(resumed.mean) == bool(ema)


def test_adamw_is_one_kernel_on_a_gpu_and_as_it_was_on_a_cpu() -> None:
    assert adamw([nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.0).defaults["fused"] is None
    with FakeTensorMode(), torch.device("cuda"):
        assert adamw([nn.Parameter(torch.ones(2))], lr=0.1, weight_decay=0.5).defaults["fused"] is True


def test_a_loss_or_gradient_that_is_not_finite_stops_at_the_last_good_weights(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss became nan at step 2 \(batch 2\); lower --lr"):
        trained(tmp_path, Task(scores=[], poisoned=2))
    state, folder = new_training(), opened(tmp_path)
    state.resume(folder)
    assert state.step == 2 and all(torch.isfinite(value).all() for value in state.weights().values())
    assert isinstance(state.network.weight, torch.nn.Parameter)
    state.network.weight.register_hook(lambda grad: grad * float("inf"))
    trainer = Trainer(state=state, plan=PLAN, task=Task(scores=[]), folder=folder)
    with pytest.raises(RunError, match=r"the gradient became .* at step 2 \(batch 2\)"):
        trainer.run(batches(trainer.left), silent)
    assert all(torch.isfinite(value).all() for value in state.weights().values())


OLD = {
    "decoder": ({"learned": ["weight", "bias"], "best": ["weight", "bias"], "mean": []}, {"best_iou": "0.5"}),
    "network": (
        {"network": ["weight", "bias"], "best": ["weight", "bias"]},
        {"best_score": "0.5", "seconds": "1.0"},
    ),
}


@pytest.mark.parametrize("form", OLD)
def test_a_state_of_another_version_is_refused(tmp_path: Path, form: str) -> None:
    state, folder = new_training(), opened(tmp_path)
    names, about = OLD[form]
    values = state.weights()
    parts = {part: {name: values[name] for name in kept} for part, kept in names.items()}
    plain = {"step": "3", "best_step": "2", "stale": "0", "losses": "[]"}
    save_training(folder.path / STATE, parts, state.optimizer, plain | about)
    with pytest.raises(RunError, match=f"state format 1, expected 3.*delete {folder.path}"):
        state.resume(folder)
    assert state.step == 0


def test_a_damaged_state_is_named_and_changes_nothing(tmp_path: Path) -> None:
    _, folder = trained(tmp_path, Task(scores=[0.5, 0.9, 0.7]))
    path, again = folder.path / STATE, opened(tmp_path)
    whole = path.read_bytes()
    parts, about = load_training(path, new_training().optimizer)
    optimizer = new_training().optimizer
    for wrong in (
        {name: value for name, value in about.items() if name != "best_score"},
        about | {"losses": "[0.1,"},
    ):
        save_training(path, parts, optimizer, wrong)
        state = new_training()
        with pytest.raises(RunError, match="is damaged"):
            state.resume(again)
        assert state.step == 0
    path.write_bytes(whole[:100])
    with pytest.raises(RunError, match=r"is damaged.*start the run again"):
        new_training().resume(again)


def test_a_run_is_taken_up_only_by_its_own_configuration(tmp_path: Path) -> None:
    _, folder = trained(tmp_path, Task(scores=[0.5, 0.9, 0.7]))
    for config, same in ((CONFIG | {"workers": 0}, True), (CONFIG | {"seed": 1}, False)):
        found = open_run(tmp_path, "unet", config, label="x")
        assert (found.id == folder.id) == same
        found.close()
    fresh = open_run(tmp_path, "unet", CONFIG, label="x", resume=False)
    assert fresh.id != folder.id
    fresh.close()
