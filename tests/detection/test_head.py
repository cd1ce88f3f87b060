"""The grid head's file, and its width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hela_store.detection.config import DetectorConfig
from hela_store.detection.data import DetectionViews
from hela_store.detection.generic import generic_name, load_generic_head
from hela_store.detection.head import GridHead, load_head, save_head
from hela_store.detection.train import new_training, train_detector
from hela_store.errors import RecipeError, RunError
from hela_store.runs.folder import load_run
from hela_store.store.store import Store

KEY = "nano-0000"


@pytest.mark.parametrize("width", [8, 64, 128])
def test_a_head_is_read_in_the_width_it_was_written_in(tmp_path: Path, width: int) -> None:
    torch.manual_seed(0)
    head = GridHead(width=width).eval()
    save_head(tmp_path / "head.safetensors", head, KEY)
    read = load_head(tmp_path / "head.safetensors", KEY)
    embedding = torch.randn(1, 256, 64, 64)
    with torch.no_grad():
        assert torch.equal(read(embedding).size, head(embedding).size)


@pytest.mark.parametrize("name", ["something.weight", "reduce.0.weight"])
def test_a_file_of_another_network_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "head.safetensors"
    save_file({name: torch.zeros(12)}, path, {"encoder": KEY})
    with pytest.raises(RunError, match=r"head.safetensors is no grid detector, or damaged .*train another"):
        load_head(path, KEY)


def test_a_run_names_start_width_and_patience_only_where_they_are_not_the_defaults() -> None:
    """Trainings of before there was a choice are still found as what they are."""
    assert not {"start", "width", "patience"} & set(DetectorConfig().settings())
    assert DetectorConfig(width=128, start="generic").settings().items() >= {"width": 128, "start": "generic"}.items()
    with pytest.raises(RecipeError, match="width is 60, expected a multiple of 8"):
        DetectorConfig(width=60)
    with pytest.raises(RecipeError, match="start is 'best', expected random or generic"):
        DetectorConfig(start="best")


def test_a_training_starts_with_the_shipped_weights_in_any_multiple_of_their_width(store: Store) -> None:
    """A wider head says what the shipped one says, before it learns more."""
    shipped = load_generic_head(store.recipe.encoder.sha256)
    views = DetectionViews(store, seed=0)
    assert new_training(views, DetectorConfig(start="generic")).network.width == shipped.width
    double = new_training(views, DetectorConfig(start="generic", width=2 * shipped.width)).network
    embedding = views[0][0][None]
    with torch.no_grad():
        for name, value in vars(shipped(embedding)).items():
            found = vars(double(embedding))[name]
            assert (found - value).abs().max() < 0.02 * value.abs().max(), name
            assert not torch.equal(found, value), "copies of a channel would learn the same"
    with pytest.raises(RunError, match="expected a multiple of the"):
        new_training(views, DetectorConfig(start="generic", width=shipped.width + 8))


def test_a_training_that_makes_the_shipped_weights_worse_keeps_them(store: Store) -> None:
    config = DetectorConfig(start="generic", lr=1.0, steps=2, evaluate_every=1, batch=2, workers=0, device="cpu")
    result = train_detector(store, config)
    run = load_run(store.path, result.run)
    assert result.best_step == 0 and run.config["start"] == generic_name()
    shipped = load_generic_head(store.recipe.encoder.sha256).state_dict()
    kept = load_head(run.weights, store.key).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in shipped.items())
