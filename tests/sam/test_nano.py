"""The weights that ship: the right bytes, the values they give everywhere, and that they really segment."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hela_store.embed import embed
from hela_store.evaluate import EvaluateConfig, evaluate
from hela_store.new import NewConfig, new
from hela_store.random import generator
from hela_store.sam import nano
from hela_store.sam.decoder import SamDecoder, SamPrompts
from hela_store.sam.encoder import encode
from hela_store.store import Store

# of the view below; made with torch 2.15 on x86-64
REFERENCE = (
    (0.603, 0.468, 0.466, 0.618, -0.587, -0.458, -0.333, -0.511)
    + (0.261, 0.357, 0.538, 0.162, -0.153, 0.033, -0.154, -0.131)
)
FLOORS = {"box-exact": 0.0, "mask": 0.0}
"""Mean IoU on the drawn test frame."""


def fixed_view() -> np.ndarray:
    """Return discs on a dark ground, float32, (256, 256), 0..255."""
    y, x = np.mgrid[:256, :256]
    view = np.full((256, 256), 20.0)
    for cx, cy, radius, light in ((60, 70, 14, 150), (130, 90, 11, 90), (190, 180, 18, 220), (80, 190, 12, 60)):
        view += light / (1 + np.exp((np.hypot(x - cx, y - cy) - radius) / 1.2))
    return (view + generator("fixed view").normal(0, 3, view.shape)).clip(0, 255).astype(np.float32)


def test_the_shipped_file_is_the_pinned_one() -> None:
    data = nano.NANO_FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == nano.NANO_SHA256
    assert len(data) <= 14_000_000
    assert nano.NANO_FILE.with_suffix(".md").exists()


def test_a_fixed_view_gives_the_same_embedding_and_masks_everywhere() -> None:
    model = nano.load_nano()
    embedding = encode(model.image_encoder, torch.from_numpy(fixed_view())[None])[0]
    found = embedding[::64, 5::30, 7::30].flatten().tolist()
    np.testing.assert_allclose(found, REFERENCE, atol=5e-3)
    box = torch.tensor([[60 - 14, 70 - 14, 60 + 15, 70 + 15]]) * 4.0 - 0.5
    decoder = SamDecoder(model.prompt_encoder, model.mask_decoder)
    with torch.no_grad():
        found = decoder(embedding, SamPrompts(boxes=box), window=16)
    left, top = (found.origins[0] * 4).tolist()
    y, x = np.mgrid[top : top + 64, left : left + 64]
    mask, disc = found.logits[0, 0] > 0, torch.from_numpy(np.hypot(x - 60, y - 70) <= 14)
    assert float((mask & disc).sum() / (mask | disc).sum()) == pytest.approx(0.909, abs=0.03)


def test_nano_segments_the_drawn_test_frame(embedded: Path, tmp_path: Path) -> None:
    from shutil import copytree

    store = Store.open(copytree(embedded, tmp_path / "store"))
    scores = evaluate(store, None, EvaluateConfig(prompts=tuple(FLOORS), prompt_seeds=1)).prompts
    for kind, floor in FLOORS.items():
        assert scores[kind].mean_iou >= floor, f"{kind}: {scores[kind].mean_iou:.3f}"


@pytest.mark.realdata
@pytest.mark.slow
def test_nano_segments_real_nuclei(realdata: Path, tmp_path: Path) -> None:
    new(tmp_path / "dic", NewConfig(dataset=str(realdata / "DIC-C2DH-HeLa")))
    store = Store.open(tmp_path / "dic")
    embed(store)
    scores = evaluate(store, None, EvaluateConfig(prompts=("mask",), prompt_seeds=1)).prompts
    assert scores["mask"].mean_iou >= 0.5
