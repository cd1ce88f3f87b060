import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file

from hela_store.errors import PromptError, RecipeError, RunError
from hela_store.runs.folder import load_run, partial_runs
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig, paper_preset
from hela_store.training.finetune import finetune
from hela_store.training.tuning import rate

module = importlib.import_module("hela_store.training.tuning")
QUICK = FinetuneConfig.of(steps=6, evaluate_every=2, cells=3, validation_cells=4, workers=0, lr=1e-3, window=8)


def test_only_the_mask_decoder_learns_and_the_run_says_what_it_did(store: Store) -> None:
    before = load_file(store.encoder_folder() / "decoder.safetensors")
    result = finetune(store, QUICK)
    info = load_run(store.path, result.run)
    log = [row for row in info.log() if "val" in row]
    assert [row["step"] for row in log] == [0, 2, 4, 6]
    assert max(log, key=lambda row: row["val"]["mean_iou"])["step"] == result.best_step
    assert log[0]["val"]["n"] == result.zero_shot.n == 1, "one of two cells chose the step, the other judged it"
    after = load_file(info.weights)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("prompt_encoder"))
    changed = any(not torch.equal(before[name], after[name]) for name in before)
    assert changed == (result.best_step > 0)
    assert store.sql("select count(*) from runs where kind = 'finetune'").fetchall()[0] == (1,)


@pytest.mark.ci
def test_tuning_works_without_checkpoint_and_without_encoder(store: Store) -> None:
    """No process that tunes or evaluates ever builds an image encoder."""
    code = f"""
import segment_anything.modeling.image_encoder as image_encoder
def refuse(*args, **kwargs):
    raise AssertionError("the image encoder was built")
image_encoder.ImageEncoderViT.__init__ = refuse
from hela_store.training.finetune import FinetuneConfig, finetune
from hela_store.evaluation.evaluate import EvaluateConfig, evaluate
from hela_store.store.store import Store
store = Store.open({str(store.path)!r})
run = finetune(store, FinetuneConfig.of(steps=1, cells=2, validation_cells=2, workers=0, window=8))
print(evaluate(store, run, EvaluateConfig(prompts=("box-exact",), split="val")).run)
"""
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


# in short: the test below, and a killed training of detection/test_train.py, which has the same trainer
@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_weights(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "other")
    code = """
import sys, torch
torch.set_num_threads(1)
from hela_store.training.finetune import FinetuneConfig, finetune
from hela_store.store.store import Store
config = FinetuneConfig.of(steps=8, evaluate_every=2, cells=3, validation_cells=3, workers=int(sys.argv[2]), lr=1e-3, window=8, refine=0.5, accumulate=2, ema=0.9)
print(finetune(Store.open(sys.argv[1]), config).run)
"""

    def start(path: Path, workers: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(path), str(workers)]
        return forked.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    straight, _ = start(store.path).communicate(timeout=300)
    with start(tmp_path / "other", workers=4) as victim:
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            names = partial_runs(tmp_path / "other")
            log = tmp_path / "other" / "runs" / f".{names[0]}.partial" / "log.jsonl" if names else None
            if log is not None and log.exists() and log.read_text().count("\n") >= 3:
                os.kill(victim.pid, signal.SIGKILL)
                break
            time.sleep(0.02)
    assert victim.returncode == -signal.SIGKILL, "it finished before it could be killed"
    assert load_names(tmp_path / "other") == []
    resumed, _ = start(tmp_path / "other").communicate(timeout=300)
    first = load_file(load_run(store.path, straight.strip()).weights)
    second = load_file(load_run(tmp_path / "other", resumed.strip()).weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert partial_runs(tmp_path / "other") == []
    logs = [
        [{k: v for k, v in row.items() if k not in ("result", "seconds")} for row in load_run(path, run.strip()).log()]
        for path, run in ((store.path, straight), (tmp_path / "other", resumed))
    ]
    assert logs[0] == logs[1]


@pytest.mark.ci
def test_a_run_stopped_by_ctrl_c_inside_a_step_or_a_validation_ends_in_the_same_weights(
    store: Store, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.with_choices(ema=0.9, device=str(device))
    shutil.copytree(store.path, tmp_path / "other")
    straight = load_file(load_run(store.path, finetune(store, config).run).weights)
    other, calls = Store.open(tmp_path / "other"), []
    adam, score = torch.optim.AdamW.step, importlib.import_module("hela_store.training.finetune").answer

    def interrupted(real, at):
        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            calls.append(real)
            if calls.count(real) == at:
                raise KeyboardInterrupt  # its work is half done: weights have moved, nothing is told yet
            return result

        return call

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted(adam, 3))
    with pytest.raises(KeyboardInterrupt):
        finetune(other, config)
    monkeypatch.setattr(torch.optim.AdamW, "step", adam)
    monkeypatch.setattr(importlib.import_module("hela_store.training.finetune"), "answer", interrupted(score, 3))
    with pytest.raises(KeyboardInterrupt):
        finetune(other, config)
    monkeypatch.undo()
    (name,) = partial_runs(other.path)
    again = finetune(other, config).run
    found = load_file(load_run(other.path, again).weights)
    assert again == name and all(torch.equal(straight[key], found[key]) for key in straight)


def load_names(path: Path) -> list[str]:
    return [p.name for p in (path / "runs").iterdir() if not p.name.startswith(".")]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.step_loss

    def poisoned(decoder, batch, config):
        loss, iou = real(decoder, batch, config)
        return (loss * float("nan") if batch.step == 3 else loss), iou

    monkeypatch.setattr(module, "step_loss", poisoned)
    with pytest.raises(RunError, match="at step 3"):
        finetune(store, QUICK)
    (name,) = partial_runs(store.path)
    folder = store.path / "runs" / f".{name}.partial"
    assert all(torch.isfinite(value).all() for value in load_file(folder / "state.safetensors").values())
    monkeypatch.setattr(module, "step_loss", real)
    assert finetune(store, QUICK).run == name


def test_a_damaged_state_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "step_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(store, QUICK)
    (name,) = partial_runs(store.path)
    state = store.path / "runs" / f".{name}.partial" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    monkeypatch.undo()
    with pytest.raises(RunError, match="damaged"):
        finetune(store, QUICK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": 1e300},
        {"loss_weight": 1e300},
        {"weight_decay": 1e300},
        {"steps": 0},
        {"window": 7},
        {"cells": 0},
        {"ema": 1.0},
    ]
    + [{"clicks": 3}, {"prompt": "box+mask", "clicks": 2}, {"masks": "all"}, {"prompt": "point+mask", "masks": "all"}],
)
def test_impossible_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        FinetuneConfig.of(**wrong)


def test_an_unknown_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="scribble"):
        FinetuneConfig.of(prompt="scribble")


def test_the_studys_preset_is_what_the_study_did() -> None:
    paper = paper_preset(FinetuneConfig())
    assert (paper.optimiser.lr, paper.prompts.cells, paper.prompts.window) == (1e-5, 1, 64)
    assert rate(paper, 0) == rate(paper, 499) == 1e-5


def test_the_schedule_runs_its_course_without_a_warm_up(store: Store) -> None:
    config = QUICK.with_choices(warmup=0, evaluate_every=1)
    rates = [row["lr"] for row in load_run(store.path, finetune(store, config).run).log() if "lr" in row]
    assert rates == [rate(config, step) for step in range(6)]
    assert (
        rates[0] == config.optimiser.lr
        and rates == sorted(rates, reverse=True)
        and rates[-1] < 0.2 * config.optimiser.lr
    )


def test_results_are_plain_json(store: Store) -> None:
    result = finetune(store, QUICK)
    assert json.loads(json.dumps(result.to_json()))["run"] == result.run
