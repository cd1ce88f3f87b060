"""The loop that makes nano, on a handful of drawn scenes."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from hela_store.base.progress import silent
from hela_store.errors import RecipeError, RunError
from hela_store.pretrain.config import PretrainConfig
from hela_store.pretrain.train import pretrain
from hela_store.sam.nano import build_nano

T = TypeVar("T")
CONFIG = PretrainConfig(steps=1, warmup=1, scenes=2, most=1, precision="float32")


def run(folder: Path, config: PretrainConfig) -> dict[str, torch.Tensor]:
    said: list[str] = []
    weights = load_file(pretrain(folder, config, silent, said.append))
    (row,) = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][-1:]
    assert row["step"] == config.steps
    return weights


@pytest.fixture
def start(tmp_path: Path) -> str:
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    save_file({k: v.half().contiguous() for k, v in build_nano("nano2").state_dict().items()}, path)
    return str(path)


def test_the_decoder_alone_learns_and_its_folder_is_its_own(tmp_path: Path, start: str) -> None:
    config = replace(CONFIG, init=start, decoder_only=True)
    weights = run(tmp_path / "out", config)
    before = load_file(start)
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith("image_encoder") for name in moved)
    with pytest.raises(RunError, match="was trained with other lr; use another --out folder"):
        pretrain(tmp_path / "out", replace(config, lr=5e-4), silent, print)


def test_decoder_only_wants_weights_to_start_from() -> None:
    with pytest.raises(RecipeError, match="--decoder-only without --init"):
        PretrainConfig(decoder_only=True)


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, start: str) -> None:
    config = replace(CONFIG, init=start, decoder_only=True, steps=3)
    whole = run(tmp_path / "whole", config)
    stop = RuntimeError("stopped")

    def interrupted(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        for number, item in enumerate(iterable):
            if what == "pretrain" and number == 2:
                raise stop
            yield item

    with pytest.raises(RuntimeError, match="stopped"):
        pretrain(tmp_path / "parts", config, interrupted, print)
    resumed = run(tmp_path / "parts", config)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_bfloat16_is_refused_where_it_is_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hela_store.pretrain.train.bfloat16_pays", lambda device: False)
    with pytest.raises(RunError, match="add --precision float32"):
        pretrain(tmp_path / "out", replace(CONFIG, precision="bfloat16"), silent, print)
    assert not (tmp_path / "out").exists()
