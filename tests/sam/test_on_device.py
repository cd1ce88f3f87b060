"""The encoder and the decoder on a CPU and on a GPU: agreement, no waits, the same bits twice, and full memory."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import numpy.typing as npt
import pytest
import torch
from on_device import SLOW_ON_CPU, never_waits, there
from segment_anything.modeling import ImageEncoderViT

from hela_store.base.rng import generator
from hela_store.errors import RecipeError
from hela_store.sam.decoder import SamDecoder, SamPrompts
from hela_store.sam.devices import Room, ieee
from hela_store.sam.encoder import _copying, begin_encode, encode, preprocess
from hela_store.sam.fast_encoder import image_embedding, view_embedding
from hela_store.sam.nano import load_nano
from hela_store.sam.tiny_vit import build_vit_t

HEADS = {"vit_b": 64, "vit_h": 80}
"""Channels of a head."""
HALF = {"bfloat16": 2e-2, "float16": 4e-3}
"""Largest relative error of embeddings in half precision."""


def views(count: int, *shape: int) -> npt.NDArray[np.float32]:
    return (generator("views", count).random((count, *(shape or (48, 64)))) * 255).astype(np.float32)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def small(name: str) -> ImageEncoderViT:
    """Return an encoder with the heads, windows and global attention of a SAM, two heads and two blocks of it."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        embed_dim=2 * HEADS[name],
        depth=2,
        num_heads=2,
        out_chans=256,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
    )
    for parameter in encoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder.eval().requires_grad_(False)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_attention_all_over_and_in_padded_windows_is_the_stock_encoders(
    device: torch.device, name: str, precision: str
) -> None:
    encoder, grey = small(name), views(1)
    with torch.no_grad():
        stock = encoder(preprocess(torch.from_numpy(grey)))
    found = encode(encoder.to(device), grey, precision)
    # TF32 would give 1e-4 and more
    assert relative(found, stock) < (1e-5 if precision == "float32" else HALF[precision])


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_nano_on_a_device_is_nano_on_a_cpu(device: torch.device, precision: str) -> None:
    encoder, grey = load_nano().image_encoder.requires_grad_(False), views(1)
    here = encode(encoder, grey)
    assert relative(encode(encoder.to(device), grey, precision), here) < HALF.get(precision, 1e-5)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_tiny_vit_on_a_device_is_tiny_vit_on_a_cpu(device: torch.device) -> None:
    torch.manual_seed(0)
    encoder, grey = build_vit_t().image_encoder.eval().requires_grad_(False), views(1)
    here = encode(encoder, grey)
    assert relative(encode(encoder.to(device), grey), here) < 1e-5


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_blocks_behind_a_cut_give_the_embedding(device: torch.device, precision: str) -> None:
    encoder, grey = small("vit_b").to(device), views(1)
    tokens, whole = encode(encoder, grey, precision, cut=1)[0].to(device), encode(encoder, grey, precision)[0]
    with torch.no_grad():
        found = view_embedding(encoder, tokens, 1, precision).cpu()
    assert relative(found, whole) < HALF.get(precision, 1e-6)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_forward_pass_never_waits_and_gives_the_same_bits_twice(device: torch.device, precision: str) -> None:
    half, found = getattr(torch, precision), []
    for encoder in (small("vit_b").to(device), load_nano().image_encoder.requires_grad_(False).to(device)):
        grey = torch.from_numpy(views(1)).to(device)
        with torch.inference_mode(), ieee(device), torch.autocast(device.type, half, enabled=precision != "float32"):
            found = [image_embedding(encoder, preprocess(grey))]
            with never_waits(device):
                found.append(image_embedding(encoder, preprocess(grey)))
        assert torch.equal(*found)


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_batches_are_begun_without_waiting_and_fetched_later(device: torch.device, stored: str) -> None:
    encoder, grey = small("vit_b").to(device), views(3)
    expected = [encode(encoder, grey[i : i + 1], stored=stored) for i in range(3)]
    with never_waits(device):
        begun = [begin_encode(encoder, grey[i : i + 1], stored=stored) for i in range(3)]
    found = [fetch() for fetch in begun]
    assert all(part.device.type == "cpu" and part.dtype == getattr(torch, stored) for part in found)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.gpu
def test_what_is_being_copied_is_not_given_to_the_next_batch() -> None:
    device = torch.device("cuda", there("cuda").index or 0)
    encoder, grey = small("vit_b").to(device), views(1)
    expected = encode(encoder, grey, stored="float16")
    with torch.cuda.stream(_copying(device)):
        torch.cuda._sleep(10**9)  # the copy waits about half a second
    fetch = begin_encode(encoder, grey, stored="float16")
    other = [torch.full(expected.shape, 7.0, dtype=torch.float16, device=device) for _ in range(64)]
    other += [torch.zeros(1, dtype=torch.bool, device=device) for _ in range(64)]  # as small as what says "finite"
    assert torch.equal(fetch(), expected) and other


@pytest.mark.parametrize("device", SLOW_ON_CPU, indirect=True)
def test_a_value_that_cannot_be_stored_leaves_an_embedding_as_it_is(device: torch.device) -> None:
    encoder = small("vit_b")
    encoder.neck[-1].bias.data[0] = 70_000.0  # the largest float16 is 65,504
    found = encode(encoder.to(device), views(1), stored="float16")
    assert found.dtype == torch.float32 and found.isfinite().all() and found.max() > 65_504


def short_of_memory(device: torch.device, spare: int) -> None:
    """Leave this process ``spare`` bytes on a GPU beside what it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + spare) / total, device)


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_into_a_gpu_is_made_smaller() -> None:
    device = there("cuda")
    encoder, grey = small("vit_b").to(device), views(16)
    whole, room = encode(encoder, grey), Room()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    encode(encoder, grey[:3])
    three = torch.cuda.max_memory_allocated(device) - held
    try:
        short_of_memory(device, round(1.3 * three))
        assert relative(encode(encoder, grey, room=room), whole) < 1e-5
        assert room.most in (2, 4)
        short_of_memory(device, three // 20)
        with pytest.raises(RecipeError, match="one view does not fit"):
            encode(encoder, grey)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert torch.equal(encode(encoder, grey), whole)


@pytest.mark.slow  # a minute of compilation
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_encoder_takes_the_smaller_last_batch(device: torch.device) -> None:
    encoder = small("vit_b").to(device)
    for count in (2, 1):
        grey = views(count)
        found, expected = encode(encoder, grey, compiled=True), encode(encoder, grey)
        assert relative(found, expected) < 1e-5


@pytest.mark.gpu
def test_the_second_gpu_is_used_where_it_is_named() -> None:
    device = there("cuda:1")
    encoder, grey = small("vit_b"), views(1)
    here = encode(encoder, grey)
    held = torch.cuda.memory_allocated("cuda:0")
    torch.cuda.reset_peak_memory_stats("cuda:0")
    assert relative(encode(encoder.to(device), grey), here) < 1e-5
    assert torch.cuda.max_memory_allocated("cuda:0") == held


def prompts_of(kind: str, count: int) -> SamPrompts:
    rng = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=rng) * 600
    boxes = torch.cat([corner, corner + 40 + torch.rand(count, 2, generator=rng) * 200], 1)
    masks = torch.full((count, 1, 256, 256), -10.0)
    masks[:-1, :, 40:80, 50:90] = 10.0  # the last one is empty
    points, labels = torch.rand(count, 2, 2, generator=rng) * 1023, torch.tensor([[1.0, 0.0]] * count)
    return {
        "box": SamPrompts(boxes=boxes),
        "point": SamPrompts(points=points, point_labels=labels),
        "mask": SamPrompts(masks=masks),
        "box+mask": SamPrompts(boxes=boxes, masks=masks),
    }[kind]


@pytest.mark.parametrize("kind", ["box", "point", "mask", "box+mask"])
@pytest.mark.parametrize("window", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_the_decoder_on_a_device_is_that_on_a_cpu_and_never_waits(device: torch.device, kind: str, window: int) -> None:
    sam, embedding = load_nano(), torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(0))
    decoder, prompts = SamDecoder(sam.prompt_encoder, sam.mask_decoder).eval(), prompts_of(kind, 3)
    other = copy.deepcopy(decoder).to(device)
    with torch.no_grad(), ieee(device):
        expected = decoder(embedding, prompts, window=window, multimask=None)
        moved, given = embedding.to(device), prompts.to(device)
        other(moved, given, window=window, multimask=None)
        with never_waits(device):
            found = other(moved, given, window=window, multimask=None)
    assert torch.equal(found.origins.cpu(), expected.origins)
    assert relative(found.logits.cpu(), expected.logits) < 1e-4 and relative(found.iou.cpu(), expected.iou) < 1e-4
