from dataclasses import replace
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from hela_store.errors import RunError
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.recipe.recipe import Architecture, EncoderRecipe, encoder_key
from hela_store.runs.folder import new_run
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.decoder import SamDecoder, SamPrompts, build_decoder, load_decoder, save_decoder
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

QUICK = FinetuneConfig.of(steps=1, cells=2, validation_cells=2, workers=0, lr=1e-2, window=8)


def same_masks(one: SamDecoder, other: SamDecoder) -> bool:
    torch.manual_seed(0)
    embedding, boxes = torch.randn(256, 64, 64), torch.tensor([[100.0, 120, 200, 260]])
    with torch.no_grad():
        found = [d(embedding, SamPrompts(boxes=boxes), multimask=None) for d in (one.eval(), other.eval())]
    return torch.equal(found[0].logits, found[1].logits) and torch.equal(found[0].iou, found[1].iou)


def test_nano_becomes_a_file_that_a_new_store_takes(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no default run"):
        export_checkpoint(store, None, tmp_path / "out.safetensors")
    result = finetune(store, QUICK)
    with pytest.raises(RunError, match=r".safetensors"):
        export_checkpoint(store, result.run, tmp_path / "out.pth")
    out = export_checkpoint(store, result.run, tmp_path / "out.safetensors").path
    loaded = load_sam_encoder(EncoderRecipe(architecture="nano", checkpoint=str(out)))
    assert same_masks(loaded.decoder, load_decoder(store.path / "runs" / result.run / "weights.safetensors"))
    before = load_sam_encoder(store.recipe.encoder)
    assert all(torch.equal(a, b) for a, b in zip(before.encoder.parameters(), loaded.encoder.parameters(), strict=True))
    with pytest.raises(RunError, match="there already"):
        export_checkpoint(store, result.run, out)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vit_b"])
def test_a_registry_loads_what_was_tuned(store: Store, tmp_path: Path, architecture: Architecture) -> None:
    torch.manual_seed(1)
    stock = sam_model_registry[architecture]()
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    recipe = store.recipe
    recipe = replace(recipe, encoder=EncoderRecipe(architecture=architecture, checkpoint=str(tmp_path / "stock.pth")))
    other = Store(store.path, recipe)
    tuned = build_decoder(architecture)
    run = new_run(store.path, "finetune", {"encoder": encoder_key(recipe)})
    save_decoder(run.path / "weights.safetensors", tuned, architecture)
    run.publish()
    out = export_checkpoint(other, run.id, tmp_path / "tuned.pth").path
    sam = sam_model_registry[architecture](checkpoint=str(out))
    assert same_masks(SamDecoder(sam.prompt_encoder, sam.mask_decoder), tuned)
    pairs = zip(stock.image_encoder.parameters(), sam.image_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
