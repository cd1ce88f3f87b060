"""Adapters beside segment-anything's own modules."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from hela_store.errors import CheckpointError, RecipeError
from hela_store.sam.adapters import Adapter, adapt_decoder, adapt_encoder, apply_adapter, learned, save_adapter
from hela_store.sam.decoder import SamDecoder, SamPrompts, build_decoder
from hela_store.sam.fast_encoder import image_embedding
from hela_store.sam.lora import AdaptedLinear, draw_noise, merge

ADAPTERS = {
    "lora": Adapter(part="encoder", rank=3, cut=1),
    "all linear": Adapter(part="encoder", rank=3, cut=1, linear=True),
    "conv": Adapter(part="encoder", rank=3, cut=1, conv=True),
}
ABOUT = {"architecture": "nano", "sha256": "a" * 64}


@pytest.fixture
def encoder() -> ImageEncoderViT:
    """Return a small encoder of SAM's classes, with windows and with global attention."""
    torch.manual_seed(0)
    made = ImageEncoderViT(
        img_size=128, embed_dim=48, depth=3, num_heads=3, use_rel_pos=True, window_size=5, global_attn_indexes=(1,)
    )
    return made.eval()


@pytest.fixture
def decoder() -> SamDecoder:
    torch.manual_seed(0)
    return build_decoder("nano").eval()


def stir(module: nn.Module) -> None:
    """Give every adapter something to say."""
    torch.manual_seed(1)
    for value in learned(module).values():
        nn.init.normal_(value, std=0.1)


def asked() -> tuple[torch.Tensor, SamPrompts]:
    torch.manual_seed(2)
    return torch.randn(256, 64, 64), SamPrompts(boxes=torch.tensor([[100.0, 120, 200, 260], [500, 300, 620, 400]]))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_fresh_adapter_changes_no_bit_of_an_embedding(encoder: ImageEncoderViT, kind: str) -> None:
    views = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        before = image_embedding(encoder, views)
        adapt_encoder(encoder, ADAPTERS[kind])
        assert torch.equal(image_embedding(encoder, views), before)
        stir(encoder)
        assert not torch.allclose(image_embedding(encoder, views), before, atol=1e-2)


def test_a_fresh_adapter_changes_no_bit_of_a_mask(decoder: SamDecoder) -> None:
    embedding, prompts = asked()
    with torch.no_grad():
        before = decoder(embedding, prompts, multimask=None)
        adapt_decoder(decoder, Adapter(part="decoder"))
        after = decoder(embedding, prompts, multimask=None)
        assert torch.equal(before.logits, after.logits) and torch.equal(before.iou, after.iou)
        stir(decoder)
        assert not torch.allclose(decoder(embedding, prompts, multimask=None).logits, before.logits, atol=1e-2)


@pytest.mark.parametrize("kind", ["lora", "all linear"])
def test_merged_equals_unmerged(encoder: ImageEncoderViT, kind: str) -> None:
    adapt_encoder(encoder, ADAPTERS[kind])
    stir(encoder)
    views = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        apart = image_embedding(encoder, views)
        merge(encoder)
        together, stock = image_embedding(encoder, views), encoder(views)
    assert not any(isinstance(module, AdaptedLinear) for module in encoder.modules())
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(stock, apart, rtol=1e-3, atol=1e-4)


def test_the_folded_decoder_sees_every_adapter_as_the_stock_one_does(decoder: SamDecoder) -> None:
    """Folding reads weights where the stock decoder calls layers; neither may pass over an adapter."""
    adapt_decoder(decoder, Adapter(part="decoder", rank=2))
    stir(decoder)
    embedding, prompts = asked()
    with torch.no_grad():
        sparse, dense = decoder.prompt_encoder(points=None, boxes=prompts.boxes, masks=None)
        logits, iou = decoder.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=decoder.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        apart = decoder(embedding, prompts, multimask=True)
        merge(decoder)
        together = decoder(embedding, prompts, multimask=True)
    for found in (apart, together):
        torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.iou, iou, rtol=1e-3, atol=1e-4)


def test_every_decoder_adapter_gets_a_gradient_and_nothing_else(decoder: SamDecoder) -> None:
    adapt_decoder(decoder, Adapter(part="decoder", rank=2))
    stir(decoder)
    embedding, prompts = asked()
    decoder(embedding, prompts).logits.square().mean().backward()
    names = learned(decoder)
    assert len(names) == 2 * 4 * (2 * 3 + 1) and all(".parts.all." in name for name in names)
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in names), name
    assert 4 * sum(value.numel() for value in names.values()) < 4e5


@pytest.mark.parametrize("kind", [*ADAPTERS, "full"])
def test_only_blocks_after_the_cut_get_gradients(encoder: ImageEncoderViT, kind: str) -> None:
    adapt_encoder(encoder, ADAPTERS.get(kind, Adapter(part="encoder", cut=1, full=True)))
    if kind != "full":
        stir(encoder)
    image_embedding(encoder.train(), torch.randn(1, 3, 128, 128)).square().mean().backward()
    names = learned(encoder)
    assert names and not any(name.startswith(("blocks.0.", "patch_embed", "pos_embed")) for name in names)
    if kind != "full":
        assert all(".parts." in name for name in names)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is None or name in names, name
    silent = [n for n, p in encoder.named_parameters() if n in names and (p.grad is None or not p.grad.any())]
    # of eight experts one is asked, and without noise the spread of the gate's is not
    assert all(".experts." in name or name.endswith((".spread", "gate")) for name in silent), silent
    if kind == "conv":
        gates = [name for name in names if name.endswith(".gate")]
        assert gates and not set(gates) & set(silent), "the gate learns from the loss"


def test_a_gate_draws_its_noise_from_the_step_alone(encoder: ImageEncoderViT) -> None:
    adapt_encoder(encoder, ADAPTERS["conv"])
    stir(encoder)
    view, seen = torch.randn(1, 3, 128, 128), []
    with torch.no_grad():
        calm = image_embedding(encoder, view)
        encoder.train()
        for key in ((0, 1), (0, 2), (0, 1)):
            draw_noise(encoder.modules(), *key)
            seen.append(image_embedding(encoder, view))
        encoder.eval()
        assert torch.equal(image_embedding(encoder, view), calm)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_a_conv_expert_sees_the_neighbours_that_a_matrix_does_not(encoder: ImageEncoderViT) -> None:
    layer = "blocks.2.attn.qkv"
    tokens = torch.zeros(1, 8, 8, 48)
    tokens[0, 4, 4] = torch.randn(48)
    reached = {}
    for kind in ("lora", "conv"):
        one = copy.deepcopy(encoder)
        adapt_encoder(one, ADAPTERS[kind])
        stir(one)
        module = one.get_submodule(layer)
        with torch.no_grad():
            added = module(tokens) - module.base(tokens)
            empty = module(torch.zeros_like(tokens)) - module.base(torch.zeros_like(tokens))
        reached[kind] = int(((added - empty).abs().amax(-1) > 1e-7).sum())
    assert reached["lora"] == 1 < reached["conv"]


def test_conv_lora_cannot_be_merged_and_says_so(encoder: ImageEncoderViT) -> None:
    adapt_encoder(encoder, ADAPTERS["conv"])
    merge(encoder)
    layer = encoder.get_submodule("blocks.1.attn.qkv")
    assert isinstance(layer, AdaptedLinear)
    with pytest.raises(CheckpointError, match="cannot be merged"):
        layer.weight  # noqa: B018


@pytest.mark.parametrize("kind", [*ADAPTERS, "full"])
def test_an_adapter_survives_the_disk(encoder: ImageEncoderViT, tmp_path: Path, kind: str) -> None:
    adapter, other = ADAPTERS.get(kind, Adapter(part="encoder", cut=1, full=True)), copy.deepcopy(encoder)
    adapt_encoder(encoder, adapter)
    stir(encoder)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, encoder, adapter, ABOUT)
    assert apply_adapter(other, path, "nano", "a" * 64) == adapter
    views = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(image_embedding(other, views), image_embedding(encoder, views), rtol=1e-3, atol=1e-4)
    assert not learned(other)


def test_an_adapter_that_does_not_fit_is_refused(encoder: ImageEncoderViT, decoder: SamDecoder, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = Adapter(part="encoder", rank=3, cut=1)
    adapted = copy.deepcopy(encoder)
    adapt_encoder(adapted, adapter)
    save_adapter(path, adapted, adapter, ABOUT)
    with pytest.raises(CheckpointError, match="weights is aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        apply_adapter(copy.deepcopy(encoder), path, "nano", "b" * 64)
    with pytest.raises(CheckpointError, match="architecture is nano, expected vit_b"):
        apply_adapter(copy.deepcopy(encoder), path, "vit_b", "a" * 64)
    with pytest.raises(CheckpointError, match="part is encoder, expected decoder"):
        apply_adapter(decoder, path, "nano", "a" * 64)
    save_adapter(path, adapted, Adapter(part="encoder", rank=2, cut=1), ABOUT)
    with pytest.raises(CheckpointError, match="does not fit nano: 8 of 8 tensors"):
        apply_adapter(copy.deepcopy(encoder), path, "nano", "a" * 64)
    save_adapter(path, adapted, Adapter(part="encoder", rank=3, cut=3), ABOUT)
    with pytest.raises(CheckpointError, match="cut is 3, expected 0 to 2: the encoder has 3 layers"):
        apply_adapter(copy.deepcopy(encoder), path, "nano", "a" * 64)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        apply_adapter(copy.deepcopy(encoder), path, "nano", "a" * 64)
    with pytest.raises(CheckpointError, match="no adapter"):
        apply_adapter(copy.deepcopy(encoder), tmp_path / "none", "nano", "a" * 64)


@pytest.mark.parametrize("rank", [0, -1, 49])
def test_an_impossible_rank(encoder: ImageEncoderViT, rank: int) -> None:
    with pytest.raises(RecipeError, match=f"rank is {rank}, expected 1 to 48"):
        adapt_encoder(encoder, Adapter(part="encoder", rank=rank))


@pytest.mark.parametrize("cut", [-1, 3, 10])
def test_a_cut_that_leaves_nothing(encoder: ImageEncoderViT, cut: int) -> None:
    with pytest.raises(RecipeError, match=f"cut is {cut}, expected 0 to 2"):
        adapt_encoder(encoder, Adapter(part="encoder", cut=cut))


def test_the_first_values_follow_from_seed_and_name(encoder: ImageEncoderViT) -> None:
    made = []
    for seed in (0, 0, 1):
        one = copy.deepcopy(encoder)
        adapt_encoder(one, ADAPTERS["conv"], seed)
        made.append(learned(one))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["blocks.1.attn.qkv.parts.q.a"], made[2]["blocks.1.attn.qkv.parts.q.a"])
    assert not torch.equal(made[0]["blocks.1.attn.qkv.parts.q.a"], made[0]["blocks.1.attn.qkv.parts.v.a"])
