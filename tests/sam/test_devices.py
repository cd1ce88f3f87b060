"""What a GPU would have to wait for, found without one: tensors of a device that does not exist."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hela_store.errors import RecipeError
from hela_store.sam.decoder import build_decoder
from hela_store.sam.devices import Room, ieee, in_turn, most_at_once, pick_device, repeatable
from hela_store.sam.encoder import preprocess
from hela_store.sam.fast_decoder import prompt_tokens
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


def test_a_device_is_named() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert pick_device().type == best
    for name in ("tpu", "cuda:x", "cuda:", "cuda:-1", "cuda:1.5", "cpu:two"):
        with pytest.raises(RecipeError, match=f"device is '{name}', expected one of auto, cpu, cuda, mps, or one GPU"):
            pick_device(name)
    with pytest.raises(RecipeError, match="device cuda:99 is not on this machine; it has"):
        pick_device("cuda:99")
    if best == "cpu":
        with pytest.raises(RecipeError, match="device cuda is not on this machine; it has cpu"):
            pick_device("cuda")


def test_processes_share_the_gpus_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RecipeError, match="it has cuda:0, cuda:1, "):
        pick_device("cuda:2")
    assert [in_turn("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [in_turn("cuda:1", number) for number in range(2)] == ["cuda:1", "cuda:1"]
    assert in_turn("cpu", 1) == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_way_to_say_that_memory_is_short(error: RuntimeError) -> None:
    room, tried = Room(), list[int]()

    def work(part: slice) -> int:
        tried.append(part.stop - part.start)
        if tried[-1] > 1:
            raise error
        return part.start

    assert list(room.each(3, torch.device("cpu"), work)) == [0, 1, 2]
    assert tried == [3, 1, 1, 1] and room.most == 1
    assert list(room.each(1, torch.device("cpu"), work)) == [0]


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(part: slice) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(Room().each(2, torch.device("cpu"), broken))


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has the older settings only")
def test_float32_is_ieee_within_and_as_it_was_behind() -> None:
    def state() -> list[str]:
        cudnn: Any = torch.backends.cudnn
        return [cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision]

    before = state()
    with ieee(torch.device("cuda")):
        assert state() == ["ieee", "ieee"]
    assert state() == before
    with ieee(torch.device("cpu")):
        assert state() == before


KINDS = {"clicks": (True, False), "boxes": (False, True), "both": (True, True), "neither": (False, False)}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_prompts_are_those_of_segment_anything(kind: str) -> None:
    encoder, rng = build_decoder("nano").prompt_encoder, torch.Generator().manual_seed(0)
    with_points, with_boxes = KINDS[kind]
    labels = torch.tensor([[1.0, 0, -1], [0, 1, 1], [-1, -1, -1], [1, 1, 0]])
    points = (torch.rand(4, 3, 2, generator=rng) * 1024, labels) if with_points else None
    boxes = torch.rand(4, 4, generator=rng) * 1024 if with_boxes else None
    expected, _ = encoder(points=points, boxes=boxes, masks=None)
    assert torch.equal(prompt_tokens(encoder, points, boxes), expected)


def test_no_prompt_makes_a_gpu_wait() -> None:
    encoder = build_decoder("nano").prompt_encoder.requires_grad_(False)
    there = {name: value.shape for name, value in [*encoder.named_parameters(), *encoder.named_buffers()]}

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *prompts: torch.Tensor) -> torch.Tensor:
            return prompt_tokens(self.encoder, (prompts[0], prompts[1]), prompts[2])

    # a boolean index has as many results as the values say, which such tensors do not have: it would be refused
    with FakeTensorMode(), Elsewhere("cuda") as elsewhere, torch.device("cuda"):
        weights = {f"encoder.{name}": torch.empty(shape) for name, shape in there.items()}
        prompts = torch.empty(3, 2, 2), torch.empty(3, 2), torch.empty(3, 4)
        out = torch.func.functional_call(Tokens(), weights, prompts)
    assert tuple(out.shape) == (3, 4, 256) and elsewhere.found == set()


@pytest.mark.parametrize(("heads", "most"), [(12, 5), (16, 3), (6, 10)])
def test_attention_on_mps_stays_below_the_size_at_which_it_aborts(heads: int, most: int) -> None:
    scores = heads * 4096**2 * 4
    assert most_at_once("mps", heads) == most and most * scores < 1 << 32 <= (most + 1) * scores
    assert most_at_once("cuda", heads) is most_at_once("cpu", heads) is None
    room = Room()
    room.bound(None)
    assert [part.stop for part in room.each(12, torch.device("cpu"), lambda part: part)] == [12]
    room.bound(most)
    parts = list(room.each(12, torch.device("cpu"), lambda part: part))
    assert max(part.stop - part.start for part in parts) == most and parts[-1].stop == 12


def test_the_workspace_of_repeatable_products_is_set_before_any_product() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    code = """
import subprocess, sys
import hela_store.sam.devices
print(subprocess.run(["printenv", "CUBLAS_WORKSPACE_CONFIG"], capture_output=True, text=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ":4096:8"


def test_a_product_before_the_import_is_one_line_with_the_way_out() -> None:
    """As torch says it at the first product on a GPU; here there is none, so that its words are given."""
    said = "Deterministic behavior was enabled ... you must set an environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with pytest.raises(RecipeError, match="needs CUBLAS_WORKSPACE_CONFIG=:4096:8 "), repeatable(torch.device("cuda")):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="another"), repeatable(torch.device("cuda")):
        raise RuntimeError("another")
    assert torch.get_deterministic_debug_mode() == 0
