"""The second edition of nano: as good as the first where it starts, whole and in pieces."""

from __future__ import annotations

import pytest
import torch

from hela_store.errors import RecipeError
from hela_store.sam.adapters import Adapter, adapt_encoder, learned
from hela_store.sam.checkpoints import architecture_of
from hela_store.sam.fast_encoder import image_embedding, tail_embedding, trunk_tokens
from hela_store.sam.nano import build_nano, load_nano


def test_it_starts_as_the_first_edition() -> None:
    first, second = load_nano(), build_nano("nano2").eval()
    second.load_state_dict(first.state_dict(), strict=False)
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        expected = image_embedding(first.image_encoder, image)
        assert torch.equal(image_embedding(second.image_encoder, image), expected)
    assert architecture_of(second.state_dict()) == "nano2"
    assert architecture_of(first.state_dict()) == "nano"


def test_it_can_be_cut_and_far_tokens_count() -> None:
    torch.manual_seed(0)
    encoder = build_nano("nano2").eval().image_encoder
    torch.nn.init.normal_(encoder.blocks[4].out.weight, std=0.1)
    image = torch.randn(1, 3, 1024, 1024)
    other = image.clone()
    other[..., 960:, 960:] = 0
    with torch.inference_mode():
        whole = image_embedding(encoder, image)
        tokens = trunk_tokens(encoder, image, 5)
        torch.testing.assert_close(tail_embedding(encoder, tokens, 5), whole)
        moved = (image_embedding(encoder, other) - whole)[..., 0, 0].abs().max()
    assert moved > 0


def test_a_cut_behind_every_block_that_takes_adapters_is_refused() -> None:
    encoder = build_nano("nano2").image_encoder
    for cut in (4, 5, 6):
        with pytest.raises(RecipeError, match=f"cut is {cut}, but the last layer that takes low-rank adapters is 3"):
            adapt_encoder(encoder, Adapter(part="encoder", rank=2, cut=cut))
        assert not learned(encoder)
    adapt_encoder(encoder, Adapter(part="encoder", rank=2, cut=3))
    assert learned(encoder)
