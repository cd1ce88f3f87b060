"""The exported decoder gives what SAM's own forward pass gives, for any number of prompts and points."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from hela_store.errors import RecipeError, RunError
from hela_store.exchange.onnx import INPUTS, OUTPUTS, OnnxDecoder, export_onnx
from hela_store.images.geometry import EMBEDDING_POSITIONS
from hela_store.prompts.logits import LOGIT
from hela_store.runs.folder import latest
from hela_store.sam.decoder import LOGITS, SamDecoder, SamPrompts, load_decoder
from hela_store.store.store import Store

BOXES = torch.tensor([[100.0, 120, 200, 260], [800, 700, 1010, 1000], [0, 3, 40, 60]])
CLICKS = torch.tensor([[[300.0, 310], [280, 330]], [[10, 1000], [20, 990]], [[512, 512], [900, 100]]])
LABELS = torch.tensor([[1.0, 1], [1, 0], [1, 0]])
MASKS = torch.full((3, 1, 256, 256), -LOGIT)
MASKS[0, :, 30:60, 200:240] = MASKS[1, :, :10, :12] = MASKS[2, :, 128, 7] = LOGIT
PROMPTS = {
    "boxes": SamPrompts(boxes=BOXES),
    "one box": SamPrompts(boxes=BOXES[:1]),
    "clicks": SamPrompts(points=CLICKS, point_labels=LABELS),
    "a click": SamPrompts(points=CLICKS[1:2, :1], point_labels=LABELS[1:2, :1]),
    "masks": SamPrompts(masks=MASKS),
    "boxes and masks": SamPrompts(boxes=BOXES, masks=MASKS),
    "clicks and masks": SamPrompts(points=CLICKS, point_labels=LABELS, masks=MASKS),
    "boxes and clicks": SamPrompts(boxes=BOXES, points=CLICKS, point_labels=LABELS),
}


def feed(embedding: torch.Tensor, prompts: SamPrompts) -> dict[str, Any]:
    """Write prompts the way segment-anything's own ONNX export wants them."""
    count = len(prompts)
    coords, labels = [torch.zeros(count, 0, 2)], [torch.zeros(count, 0)]
    if prompts.points is not None and prompts.point_labels is not None:
        coords, labels = [*coords, prompts.points], [*labels, prompts.point_labels]
        if prompts.boxes is None:
            coords, labels = [*coords, torch.zeros(count, 1, 2)], [*labels, torch.full((count, 1), -1.0)]
    if prompts.boxes is not None:
        coords, labels = [*coords, prompts.boxes.view(-1, 2, 2)], [*labels, torch.tensor([[2.0, 3]]).expand(count, -1)]
    masks = torch.zeros(count, 1, 256, 256) if prompts.masks is None else prompts.masks
    has_mask = torch.full((count,), float(prompts.masks is not None))
    parts = (embedding[None], torch.cat(coords, 1), torch.cat(labels, 1), masks, has_mask)
    return {name: part.numpy() for name, part in zip(INPUTS, parts, strict=True)}


def whole(decoder: SamDecoder, embedding: torch.Tensor, prompts: SamPrompts, window: int) -> tuple[torch.Tensor, Any]:
    """Return the decoder's own four masks, its windows on a grid of background."""
    with torch.no_grad():
        found = decoder(embedding, prompts, window=window, multimask=None)
    out, size = torch.full((len(prompts), 4, 256, 256), -LOGIT), window * LOGITS
    for plane, logits, (x, y) in zip(out, found.logits, (found.origins * LOGITS).tolist(), strict=True):
        plane[:, y : y + size, x : x + size] = logits
    return out, found.iou


@pytest.mark.parametrize("window", [8, 32, EMBEDDING_POSITIONS])
@pytest.mark.parametrize("kind", PROMPTS)
def test_the_model_that_is_exported_is_the_decoder(scored: Path, kind: str, window: int) -> None:
    decoder = load_decoder(latest(scored, "finetune").weights)
    embedding = torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(1))
    parts = [torch.from_numpy(part) for part in feed(embedding, PROMPTS[kind]).values()]
    with torch.no_grad():
        logits, iou = OnnxDecoder(decoder, window).eval()(*parts)
    expected, expected_iou = whole(decoder, embedding, PROMPTS[kind], window)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(iou, expected_iou, atol=1e-4, rtol=0)


# in short: the export of notebook 4, which compares with onnxruntime itself, and the test above
@pytest.mark.slow
def test_onnxruntime_decodes_what_torch_decodes(scored: Path, tmp_path: Path) -> None:
    store, run = Store.open(scored), latest(scored, "finetune")
    with pytest.raises(RunError, match=r"ends in .onnx"):
        export_onnx(store, run.id, tmp_path / "decoder.pt")
    with pytest.raises(RecipeError, match="window is 7"):
        export_onnx(store, run.id, tmp_path / "decoder.onnx", window=7)
    result = export_onnx(store, run.id, tmp_path / "deep/decoder.onnx")
    assert result.window == run.config["window"] == 16 and 0 < result.difference < 1e-3
    with pytest.raises(RunError, match="there already"):
        export_onnx(store, run.id, result.path)
    proto = onnx.load(result.path)
    onnx.checker.check_model(proto)
    assert {p.key: p.value for p in proto.metadata_props}.items() >= {"run": run.id, "window": "16"}.items()
    session = InferenceSession(result.path, providers=["CPUExecutionProvider"])
    decoder, row = load_decoder(run.weights), min(store.committed().values())
    embedding = torch.from_numpy(np.asarray(store.embedding_at(row), np.float32))
    for prompts in PROMPTS.values():
        logits, iou = session.run(OUTPUTS, feed(embedding, prompts))
        expected, expected_iou = whole(decoder, embedding, prompts, result.window)
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3, rtol=0)
        np.testing.assert_allclose(iou, expected_iou.numpy(), atol=1e-4, rtol=0)
