from collections.abc import Iterator

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch.nn.attention import SDPBackend

from hela_store.base.rng import generator
from hela_store.integrity.verify import ENCODER_TOLERANCE
from hela_store.recipe.recipe import BLOCKS, TOKEN_WIDTH
from hela_store.sam import fast_encoder as forward
from hela_store.sam.encoder import encode
from hela_store.sam.fast_encoder import drop_trunk, image_embedding, normalise_input, tail_embedding, trunk_tokens
from hela_store.sam.nano import build_nano, load_nano


def wake(module: torch.nn.Module) -> None:
    """Give parameters that start at zero (relative positions) values, or parity would prove nothing."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize(("window", "size"), [(0, 128), (8, 128), (5, 128), (0, 96)])
@pytest.mark.parametrize("way", ["whole", "parts", "fused"])
def test_fast_forward_equals_the_stock_encoder(
    window: int, size: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "parts":
        monkeypatch.setattr(forward, "PART", 3000)  # neither all windows nor all queries at once
    elif way == "fused":  # as on a GPU
        monkeypatch.setattr(forward, "IN_PARTS", ())
    torch.manual_seed(0)
    stock = ImageEncoderViT(
        img_size=size,
        embed_dim=48,
        depth=3,
        num_heads=3,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
        out_chans=32,
    ).eval()
    wake(stock)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, found = stock(images), image_embedding(stock, images)
    assert ((found - expected).norm() / expected.norm()).item() <= 1e-5


@pytest.mark.parametrize(("channels", "wide"), [(64, 96), (80, 112)], ids=["ViT-B", "ViT-H"])
def test_rows_of_half_precision_are_padded_for_a_gpu_and_mean_the_same(
    channels: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    heads = 2
    attention = Attention(channels * heads, heads, use_rel_pos=True, input_size=(14, 14)).requires_grad_(False)
    wake(attention)
    x_BHWC = torch.randn(1, 28, 28, channels * heads)
    monkeypatch.setattr(forward, "IN_PARTS", ())  # as on a GPU
    seen, real = [], torch.nn.functional.scaled_dot_product_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        seen.append((q.dtype, q.shape[-1], k.shape[-1], v.shape[-1]))
        out: torch.Tensor = real(q, k, v, scale=scale)
        return out

    monkeypatch.setattr(forward, "scaled_dot_product_attention", attend)
    found = []
    for devices, halved in (((), False), (("cpu",), False), ((), True), (("cpu",), True)):
        monkeypatch.setattr(forward, "PADDED", devices)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=halved):
            found.append(forward._attention(attention, x_BHWC, 14, cropped=False).float())
    narrow = channels + 28
    assert [rows for _, *rows in seen] == [[narrow] * 3, [narrow] * 3, [narrow] * 3, [wide] * 3]
    assert [dtype for dtype, *_ in seen] == [torch.float32] * 2 + [torch.bfloat16] * 2
    stock, same, half, padded = found
    assert torch.equal(same, stock)
    assert (padded - half).norm() <= 2e-3 * half.norm() and (padded - stock).norm() <= 2e-2 * stock.norm()


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Attend as on a GPU, by a kernel of a CPU that takes values of another length; note the channels of q, k and v."""
    monkeypatch.setattr(forward, "IN_PARTS", ())
    monkeypatch.setattr(forward, "PADDED", ("cpu",))
    monkeypatch.setattr(forward, "APART", SDPBackend.MATH)
    seen, real = list[tuple[int, ...]](), torch.nn.functional.scaled_dot_product_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        seen.append((q.shape[-1], k.shape[-1], v.shape[-1]))
        out: torch.Tensor = real(q, k, v, scale=scale)
        return out

    monkeypatch.setattr(forward, "scaled_dot_product_attention", attend)
    forward._tried_apart.cache_clear()
    yield seen
    forward._tried_apart.cache_clear()


def global_attention() -> tuple[Attention, torch.Tensor]:
    """Return attention over 64 x 64 positions with heads as of ViT-B, and tokens for it."""
    torch.manual_seed(0)
    attention = Attention(64, 1, use_rel_pos=True, input_size=(64, 64)).requires_grad_(False)
    wake(attention)
    return attention, torch.randn(1, 64, 64, 64)


def test_values_are_as_long_as_keys_only_for_kernels_that_want_it(
    apart: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, x_BHWC = global_attention()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = forward._attention(attention, x_BHWC, 0, cropped=False)
        assert apart == [(192, 192, 128)] * 2  # the first one was tried
        apart.clear()
        monkeypatch.setattr(forward, "APART", SDPBackend.CUDNN_ATTENTION)  # which a CPU does not have
        forward._tried_apart.cache_clear()
        expected = forward._attention(attention, x_BHWC, 0, cropped=False)
        assert apart == [(192, 192, 128), (192, 192, 192)]
    assert (found - expected).norm() <= 2e-3 * expected.norm()


def test_float32_and_what_learns_keep_values_as_long_as_keys(apart: list[tuple[int, ...]]) -> None:
    attention, x_BHWC = global_attention()
    x_BHWC = x_BHWC[:, :, :48]  # fewer positions are enough
    forward._attention(attention, x_BHWC, 0, cropped=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forward._attention(attention, x_BHWC.requires_grad_(), 0, cropped=False)
    assert len(apart) == 2 and all(len(set(channels)) == 1 for channels in apart)


def test_nano_has_sams_interface_and_its_own_forward_agrees() -> None:
    torch.manual_seed(0)
    nano = build_nano().eval()
    wake(nano.image_encoder)
    image = normalise_input(torch.rand(1, 3, 1024, 1024) * 255)
    with torch.no_grad():
        expected, found = nano.image_encoder(image), image_embedding(nano.image_encoder, image)
    assert expected.shape == (1, 256, 64, 64)
    assert ((found - expected).norm() / expected.norm()).item() <= 1e-5


@pytest.mark.slow
def test_two_ways_of_attention_are_closer_than_verify_asks_of_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_nano().image_encoder.requires_grad_(False)
    grey = (generator("views").random((1, 64, 64)) * 255).astype(np.float32)
    parts = [encode(encoder, grey, precision) for precision in ENCODER_TOLERANCE]
    monkeypatch.setattr(forward, "IN_PARTS", ())  # as on a GPU
    monkeypatch.setattr(forward, "PADDED", ("cpu",))
    for part, (precision, limit) in zip(parts, ENCODER_TOLERANCE.items(), strict=True):
        found = encode(encoder, grey, precision)
        assert 0 < (found - part).norm() / part.norm() < limit / 3


@pytest.mark.ci
@pytest.mark.parametrize("cuts", [(1, 6, 11), pytest.param(tuple(range(1, 12)), marks=pytest.mark.slow)], ids=len)
def test_every_cut_of_a_vit_b_goes_on_to_the_very_embedding(cuts: tuple[int, ...]) -> None:
    """ViT-B's blocks, windows that do not divide the grid and global attention, on fewer tokens."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=320,
        depth=12,
        embed_dim=768,
        num_heads=12,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
    ).eval()
    assert (len(encoder.blocks), encoder.pos_embed.shape[-1]) == (BLOCKS["vit_b"], TOKEN_WIDTH["vit_b"])
    wake(encoder)
    image = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        expected = image_embedding(encoder, image)
        kept = {cut: trunk_tokens(encoder, image, cut) for cut in cuts}
        for cut in cuts:
            drop_trunk(encoder, cut)  # what a tail does not use may go
            assert torch.equal(tail_embedding(encoder, kept[cut], cut), expected), cut
    assert kept[6].shape == (1, 20, 20, 768)


def test_the_recipe_knows_nanos_size() -> None:
    encoder = build_nano().image_encoder
    assert (len(encoder.blocks), encoder.blocks[0].attn.qkv.in_features) == (BLOCKS["nano"], TOKEN_WIDTH["nano"])


def test_relative_positions_are_made_once_while_weights_are_frozen_and_again_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    offsets = forward._offsets

    def counted(table: torch.Tensor, size: int, cropped: bool) -> torch.Tensor:
        made.append(size)
        return offsets(table, size, cropped)

    monkeypatch.setattr(forward, "_offsets", counted)
    encoder = build_nano().image_encoder.eval().requires_grad_(False)
    wake(encoder)
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def both() -> int:
        made.clear()
        with torch.inference_mode():
            fast, stock = image_embedding(encoder, x), encoder(x)
        assert (fast - stock).norm() < 1e-5 * stock.norm()
        return len(made)

    first = both()
    assert first == 2 * len(encoder.blocks) and both() == 0
    # other values in the same place, another table, another dtype and back
    with torch.no_grad():
        encoder.blocks[0].attn.rel_pos_h.mul_(2)
    assert both() == 1
    encoder.load_state_dict({name: value.clone() for name, value in encoder.state_dict().items()}, assign=True)
    encoder.requires_grad_(False)
    assert both() == first
    encoder.half().float()
    assert both() == first and both() == 0
    # what learns, or may learn, is never kept
    encoder.requires_grad_(True)
    assert both() == both() == first
    made.clear()
    image_embedding(encoder, x).sum().backward()
    assert len(made) == first and encoder.blocks[0].attn.rel_pos_h.grad is not None
