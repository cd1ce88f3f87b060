"""What a GPU would have to wait for, found without one: tensors of a device that does not exist."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hela_store.sam.encoder import preprocess
from hela_store.sam.fast_encoder import PIXEL_MEAN, PIXEL_STD, image_embedding, normalise_input, relative_positions
from hela_store.sam.nano import build_nano


def stock() -> ImageEncoderViT:
    return ImageEncoderViT(
        embed_dim=16, depth=2, num_heads=2, out_chans=256, use_rel_pos=True, window_size=14, global_attn_indexes=(1,)
    )


class Elsewhere(TorchDispatchMode):
    """Notes the operators that make a tensor on another device than the one that is used."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.found = device, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(part, torch.Tensor) and part.device.type != self.device for part in tree_leaves(out)):
            self.found.add(str(func))
        return out


class Forward(torch.nn.Module):
    """From views to embeddings, with parameters that can be put in from outside."""

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return image_embedding(self.encoder, preprocess(views))


@pytest.mark.parametrize("build", [stock, lambda: build_nano().image_encoder], ids=["stock", "nano"])
def test_the_forward_pass_makes_no_tensor_on_another_device(build: Callable[[], ImageEncoderViT]) -> None:
    forward = Forward(build()).eval()
    shapes = {name: value.shape for name, value in forward.named_parameters()}
    with FakeTensorMode(), torch.inference_mode():
        there = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        views = torch.empty(2, 512, 512, device="cuda")
        with Elsewhere("cuda") as elsewhere:
            out = torch.func.functional_call(forward, there, (views,))
    assert (out.device.type, tuple(out.shape)) == ("cuda", (2, 256, 64, 64))
    assert elsewhere.found == set()


def test_it_finds_the_index_that_segment_anything_makes_on_the_cpu() -> None:
    with FakeTensorMode(), Elsewhere("cuda") as elsewhere:
        get_rel_pos(4, 4, torch.empty(7, 2, device="cuda"))
    assert elsewhere.found


@pytest.mark.parametrize(("rows", "size"), [(27, 14), (127, 64), (27, 9), (15, 16)])
def test_relative_positions_are_those_of_segment_anything(rows: int, size: int) -> None:
    table = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(relative_positions(table, size), get_rel_pos(size, size, table))


def test_normalising_is_that_of_segment_anything() -> None:
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    assert torch.equal(normalise_input(images), (images - mean) / std)
