import shutil

import numpy as np
import pytest
import torch
from on_device import Places
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.utils.transforms import ResizeLongestSide

from hela_store.base.rng import generator
from hela_store.errors import RecipeError
from hela_store.sam import encoder as encoder_module
from hela_store.sam.decoder import build_decoder
from hela_store.sam.devices import Room
from hela_store.sam.encoder import encode, preprocess
from hela_store.sam.fast_encoder import PIXEL_MEAN, PIXEL_STD


@pytest.fixture(scope="module")
def tiny():
    """An encoder of SAM's own classes that costs next to nothing."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=1024, embed_dim=16, depth=1, num_heads=2, out_chans=256, use_rel_pos=True, window_size=8
    )
    return encoder.eval().requires_grad_(False)


def views(*shape):
    return (generator("views", *shape).random(shape) * 255).astype(np.float32)


def test_preprocess_is_what_sams_predictor_does(tiny):
    decoder = build_decoder("nano")
    sam = Sam(tiny, decoder.prompt_encoder, decoder.mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD))
    grey = views(70, 110).astype(np.uint8)
    big = ResizeLongestSide(1024).apply_image(np.repeat(grey[..., None], 3, axis=2))
    theirs = sam.preprocess(torch.from_numpy(big.astype(np.float32)).permute(2, 0, 1)[None])
    ours = preprocess(torch.from_numpy(grey[None].astype(np.float32)))
    # theirs is rounded to whole grey levels on the way
    assert (ours - theirs).abs().max() * max(PIXEL_STD) < 1.1


def test_the_padding_is_the_mean_colour(tiny):
    out = preprocess(torch.full((2, 40, 80), 7.0))
    assert out.shape == (2, 3, 1024, 1024)
    assert not out[:, :, 512:].any()
    assert torch.allclose(out[0, :, 0, 0], (7 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD))


def test_a_cpu_resizes_for_devices_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    grey, where = torch.from_numpy(views(1, 48, 64)), torch.device("meta")  # which has no values
    for before, expected in (((), "meta"), (("meta",), "cpu")):
        monkeypatch.setattr(encoder_module, "PREPARED_BEFORE", before)
        with Places("_upsample_bilinear2d_aa") as resized:
            found = encoder_module._prepared(grey, where)
        assert (found.device, tuple(found.shape)) == (where, (1, 3, 1024, 1024))
        assert resized.devices == {expected}


def test_a_view_of_1024_px_is_not_resampled():
    grey = views(1, 1024, 1024)
    out = preprocess(torch.from_numpy(grey))[0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]
    assert np.allclose(out, grey[0], atol=1e-3)


def test_encode(tiny):
    grey = views(2, 48, 64)
    out = encode(tiny, grey)
    assert (out.shape, out.dtype, out.device.type) == ((2, 256, 64, 64), torch.float32, "cpu")
    assert torch.equal(out, encode(tiny, torch.from_numpy(grey)))
    assert torch.allclose(out, tiny(preprocess(torch.from_numpy(grey))), atol=1e-4)
    assert torch.allclose(out[:1], encode(tiny, grey[:1]), atol=1e-5)


def test_what_is_stored_is_rounded_before_it_is_copied(tiny):
    grey = views(3, 48, 64)
    whole, found = encode(tiny, grey), encode(tiny, grey, stored="float16")
    assert found.dtype == torch.float16 and found.numpy().tobytes() == whole.numpy().astype(np.float16).tobytes()


def test_values_that_cannot_be_stored_are_returned_as_they_are(tiny):
    grey = views(2, 48, 64)

    class Large(torch.nn.Module):
        def forward(self, x_BCHW):
            out = torch.zeros(len(x_BCHW), 256, 64, 64)
            out[0, 0, 0, 0] = 70_000.0
            return out

    large = tiny.neck
    tiny.neck = torch.nn.Sequential(Large())
    try:
        found = encode(tiny, grey, stored="float16")
    finally:
        tiny.neck = large
    assert found.dtype == torch.float32 and found.max() == 70_000


class Small(torch.nn.Module):
    """A patch embedding on a device with memory for so many images."""

    def __init__(self, inner: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError
        return self.inner(x)


def test_a_batch_that_does_not_fit_is_halved(tiny, monkeypatch):
    grey = views(5, 48, 64)
    expected, tokens = encode(tiny, grey), encode(tiny, grey, cut=1)
    monkeypatch.setattr(tiny, "patch_embed", Small(tiny.patch_embed, 2))
    assert torch.allclose(encode(tiny, grey), expected, atol=1e-5)
    assert torch.allclose(encode(tiny, grey, cut=1), tokens, atol=1e-5)
    tiny.patch_embed.room = 2
    room, tried = Room(), []
    assert torch.allclose(encode(tiny, grey, room=room), expected, atol=1e-5) and room.most == 2
    tiny.patch_embed.register_forward_pre_hook(lambda _, images: tried.append(len(images[0])))
    encode(tiny, grey, room=room)
    assert tried == [2, 2, 1]  # what does not fit is not tried again
    tiny.patch_embed.room = 0
    with pytest.raises(RecipeError, match="one view does not fit"):
        encode(tiny, grey)


@pytest.mark.slow  # a minute of compilation
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("cut", [None, 1])
def test_compiled_it_gives_the_same(tiny, cut):
    grey = views(1, 48, 64)
    expected, found = encode(tiny, grey, cut=cut), encode(tiny, grey, cut=cut, compiled=True)
    assert ((found - expected).norm() / expected.norm()).item() <= 1e-5
