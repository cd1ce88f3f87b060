from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.errors import CheckpointError
from hela_store.sam.decoder import (
    SamDecoder,
    SamPrompts,
    build_decoder,
    crop_windows,
    load_decoder,
    save_decoder,
    window_origins,
)


@pytest.fixture(scope="module")
def decoder() -> SamDecoder:
    torch.manual_seed(0)
    return build_decoder("nano").eval()


def prompts_of(kind: str, count: int = 3) -> SamPrompts:
    torch.manual_seed(1)
    corner = torch.rand(count, 2) * 600
    boxes = torch.cat([corner, corner + 40 + torch.rand(count, 2) * 200], 1)
    points, labels = torch.rand(count, 2, 2) * 1023, torch.tensor([[1.0, 0.0]] * count)
    masks = torch.randn(count, 1, 256, 256) * 5
    return SamPrompts(
        boxes=boxes if "box" in kind else None,
        points=points if "point" in kind else None,
        point_labels=labels if "point" in kind else None,
        masks=masks if "mask" in kind else None,
    )


@pytest.mark.parametrize("kind", ["box", "point", "mask", "box+mask", "point+mask", "box+point"])
@pytest.mark.parametrize("multimask", [False, True])
def test_the_full_window_is_sams_own_forward(decoder: SamDecoder, kind: str, multimask: bool) -> None:
    prompts = prompts_of(kind)
    embedding = torch.randn(256, 64, 64)
    points = None if prompts.points is None else (prompts.points, prompts.point_labels)
    with torch.no_grad():
        sparse, dense = decoder.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
        logits, iou = decoder.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=decoder.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        found = decoder(embedding, prompts, multimask=multimask)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.iou, iou, rtol=1e-4, atol=1e-5)


def test_a_window_reads_nothing_beyond_it(decoder: SamDecoder) -> None:
    prompts = prompts_of("box+mask")
    embedding = torch.randn(256, 64, 64)
    with torch.no_grad():
        first = decoder(embedding, prompts, window=16)
        x, y = first.origins[0].tolist()
        changed = torch.randn(256, 64, 64)
        changed[:, y : y + 16, x : x + 16] = embedding[:, y : y + 16, x : x + 16]
        second = decoder(changed, prompts, window=16)
    torch.testing.assert_close(first.logits[0], second.logits[0])


@settings(max_examples=50, deadline=None)
@given(x=st.floats(0, 1000), y=st.floats(0, 1000), side=st.floats(1, 90), window=st.sampled_from([8, 16, 32, 64]))
def test_a_window_lies_in_the_grid_and_holds_its_prompt(x: float, y: float, side: float, window: int) -> None:
    box = torch.tensor([[x, y, min(x + side, 1024), min(y + side, 1024)]])
    origin = window_origins(SamPrompts(boxes=box), window)
    assert (origin >= 0).all() and (origin + window <= 64).all()
    first, last = origin * 16, (origin + window) * 16
    assert (first <= box[:, :2] + 1e-3).all() and (box[:, 2:] <= last + 1e-3).all()


def test_windows_are_cut_where_they_are_asked_for() -> None:
    grid = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    origins = torch.tensor([[1, 2], [0, 3]])
    cut = crop_windows(grid, origins, 4, 1)
    assert torch.equal(cut[0], grid[0, :, 2:6, 1:5]) and torch.equal(cut[1], grid[1, :, 3:7, 0:4])
    shared = crop_windows(grid[:1], origins, 2, 2)
    assert torch.equal(shared[1], grid[0, :, 6:8, 0:2])


def test_a_decoder_survives_the_disk_and_a_damaged_one_is_refused(decoder: SamDecoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    save_decoder(path, decoder, "nano")
    again = load_decoder(path)
    for name, value in decoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_decoder(path)
    with pytest.raises(CheckpointError, match="hela-store embed"):
        load_decoder(tmp_path / "none.safetensors")
