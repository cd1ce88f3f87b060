"""Layouts against the packages that write them, with random weights of full size."""

import importlib.util
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_sams import drawn
from segment_anything import sam_model_registry

from hela_store.errors import CheckpointError
from hela_store.exchange.checkpoint import export_checkpoint
from hela_store.recipe.recipe import EncoderRecipe, encoder_key
from hela_store.runs.folder import new_run
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.decoder import build_decoder, save_decoder
from hela_store.sam.encoder import whole_embedding
from hela_store.sam.layouts.table import read_sam
from hela_store.store.store import Store

pytestmark = pytest.mark.slow
IMAGE = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(3))
BOX = torch.tensor([[100.0, 120, 400, 360]])


@pytest.fixture(scope="module")
def stock():
    torch.manual_seed(0)
    return drawn(sam_model_registry["vit_b"]())


def relative(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def encoded(path):
    loaded = load_sam_encoder(EncoderRecipe(architecture="vit_b", checkpoint=str(path)))
    with torch.inference_mode():
        return loaded, whole_embedding(loaded.encoder, IMAGE)


@torch.inference_mode()
def theirs_of(folder):
    """Return the embedding, masks and IoUs of transformers' own model."""
    model = pytest.importorskip("transformers").SamModel.from_pretrained(folder).eval()
    embedding = model.get_image_embeddings(IMAGE)
    found = model(image_embeddings=embedding, input_boxes=BOX[None], multimask_output=True)
    return embedding, found.pred_masks[0, 0], found.iou_scores[0, 0]


@torch.inference_mode()
def ours_of(sam, embedding):
    sparse, dense = sam.prompt_encoder(points=None, boxes=BOX, masks=None)
    masks, iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return masks[0], iou[0]


def assert_equal(ours, masks, iou):
    """Masks are equal wherever a logit is not zero within what two orders of the same sums differ by."""
    assert relative(ours[0], masks) < 1e-4 and relative(ours[1], iou) < 1e-4
    differ = (ours[0] > 0) != (masks > 0)
    print("logits", relative(ours[0], masks), "IoU", relative(ours[1], iou), "pixels", int(differ.sum()))
    assert not differ.any() or float(masks[differ].abs().max() / masks.abs().max()) < 1e-4


@pytest.mark.parametrize("size", ["100GB", "150MB"])
def test_what_transformers_saves(tmp_path, size):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model: Any = drawn(transformers.SamModel(transformers.SamConfig()))
    model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    assert (tmp_path / "theirs/model.safetensors.index.json").exists() == (size == "150MB")
    assert len(read_sam(next(p for p in sorted((tmp_path / "theirs").glob("model.safetensors*")))).state) == 314
    loaded, found = encoded(tmp_path / "theirs")
    embedding, masks, iou = theirs_of(tmp_path / "theirs")
    assert relative(found, embedding) < 1e-5
    ours = ours_of(loaded.decoder, embedding)
    assert_equal(ours, masks, iou)


def test_transformers_opens_an_export(store: Store, tmp_path: Path, stock) -> None:
    pytest.importorskip("transformers")
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    recipe = replace(store.recipe, encoder=EncoderRecipe(architecture="vit_b", checkpoint=str(tmp_path / "stock.pth")))
    torch.manual_seed(4)
    tuned = build_decoder("vit_b")
    run = new_run(store.path, "finetune", {"encoder": encoder_key(recipe)})
    save_decoder(run.path / "weights.safetensors", tuned, "vit_b")
    run.publish()
    out = export_checkpoint(Store(store.path, recipe), run.id, tmp_path / "hf", layout="huggingface").path
    embedding, masks, iou = theirs_of(out)
    loaded, found = encoded(out)
    assert relative(found, embedding) < 1e-5
    for ours in (ours_of(loaded.decoder, embedding), ours_of(tuned.eval(), embedding)):
        assert_equal(ours, masks, iou)


def peft_sam():
    """Return micro-sam's module for adapters, without importing the rest of the package."""
    found = importlib.util.find_spec("micro_sam")
    if found is None:
        pytest.skip("micro-sam is not installed")
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("peft_sam", Path(found.origin).parent / "models" / "peft_sam.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(action="ignore"):
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("matrices", [["q", "v"], ["q", "k", "v", "mlp"]])
def test_adapters_of_micro_sam(tmp_path, matrices):
    peft = peft_sam()
    torch.manual_seed(0)
    sam = drawn(sam_model_registry["vit_b"]())
    model = peft.PEFT_Sam(sam, rank=4, peft_module=peft.LoRASurgery, update_matrices=matrices)
    generator = torch.Generator().manual_seed(5)
    for name, value in model.named_parameters():
        if ".w_b_linear_" in name:
            value.data.normal_(0, 0.02, generator=generator)
    model.eval()
    torch.save({"model_state": {f"sam.{n}": v for n, v in model.sam.state_dict().items()}}, tmp_path / "best.pt")
    loaded = load_sam_encoder(EncoderRecipe(architecture="vit_b", checkpoint=str(tmp_path / "best.pt")))
    ours: Any = loaded.encoder
    theirs: Any = model.sam.image_encoder
    assert not torch.equal(ours.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.qkv_proj.weight)
    for encoder in (ours, theirs):  # a sixteenth of the view, which float64 takes long enough for
        encoder.pos_embed = torch.nn.Parameter(encoder.pos_embed[:, :16, :16].clone())
    small = IMAGE[..., :256, :256]
    with torch.inference_mode():
        found, peer = ours(small), theirs(small)
        merged, exact = ours.double()(small.double()), theirs.double()(small.double())
    far = {"ours": found, "micro-sam": peer, "merged weights in float64": merged}
    print({who: relative(embedding, exact) for who, embedding in far.items()}, "apart", relative(found, peer))
    # in float32 their own sums are as far from the exact ones as ours, so that nothing can be nearer to both
    assert relative(merged, exact) < 1e-5 and relative(found, exact) < 1.5 * relative(peer, exact)


MEMORY = """
import sys
from pathlib import Path
import torch
from hela_store.recipe.recipe import EncoderRecipe
from hela_store.sam.checkpoints import load_sam_encoder
load_sam_encoder(EncoderRecipe())
def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(sys.argv[2])).split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = peak()
loaded = load_sam_encoder(EncoderRecipe(architecture="vit_h", checkpoint=sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("form", ["pth", "best", "huggingface"])
def test_memory_while_a_vit_h_is_loaded(tmp_path, form):
    from safetensors.torch import save_file

    from hela_store.sam.layouts.hugging_face import to_hugging_face

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in sam_model_registry["vit_h"]().state_dict().items()}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = tmp_path / ("model.safetensors" if form == "huggingface" else "vit_h.pth")
    if form == "huggingface":
        save_file(to_hugging_face(state), path)
    elif form == "best":
        torch.save({"model_state": state, "init": CheckpointError("an object")}, path)
    else:
        torch.save(state, path)
    del state
    code = MEMORY
    done = subprocess.run([sys.executable, "-c", code, path, "VmHWM"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    share = int(done.stdout) / path.stat().st_size
    print(f"{form}: {share:.2f} times the file")
    assert 0.5 < share < 1.3, share
