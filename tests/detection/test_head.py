"""The grid head's file, and its width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hela_store.detection.config import DetectorConfig
from hela_store.detection.head import GridHead, load_head, save_head
from hela_store.errors import RecipeError, RunError

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


def test_a_run_names_a_width_only_where_it_is_not_the_default() -> None:
    """Trainings of before there was a width are still found as what they are."""
    assert "width" not in DetectorConfig().settings()
    assert DetectorConfig(width=128).settings()["width"] == 128
    with pytest.raises(RecipeError, match="width is 60, expected a multiple of 8"):
        DetectorConfig(width=60)
