"""Running SAM's image encoder over views."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from hela_store.errors import RecipeError
from hela_store.images.geometry import SAM_INPUT, resized_shape

from .devices import Room, ieee, most_at_once
from .fast_encoder import image_embedding, normalise_input, trunk_tokens
from .modeling import ImageAttention, ImageEncoderViT
from .tiny_vit import TinyViT

PREPARED_BEFORE = ("mps",)
"""Devices for which a CPU resizes views: with older versions of torch an Apple GPU cannot resize with antialiasing."""
Fetch = Callable[[], Tensor]
"""Waits for a device and returns what it computed, on the CPU."""


def preprocess(views: Tensor) -> Tensor:
    """Bring views to what the encoder takes.

    Long side to 1024 px (bilinear, antialiased), grey to RGB, minus mean, over standard deviation, then zeros to the
    right and below: SAM pads after normalising, so padding is the mean colour.

    Parameters
    ----------
    views : float32, (B, H, W), 0..255

    Returns
    -------
    float32, (B, 3, 1024, 1024)
    """
    height, width = resized_shape((views.shape[1], views.shape[2]))
    grey_B1HW = views[:, None].float()
    if (height, width) != tuple(views.shape[1:]):
        grey_B1HW = interpolate(grey_B1HW, (height, width), mode="bilinear", align_corners=False, antialias=True)
    normal_B3HW = normalise_input(grey_B1HW.expand(-1, 3, -1, -1))
    return pad(normal_B3HW, (0, SAM_INPUT - width, 0, SAM_INPUT - height))


def encode(
    encoder: ImageEncoderViT | TinyViT,
    views: Tensor | npt.NDArray[np.float32],
    precision: str = "float32",
    cut: int | None = None,
    *,
    compiled: bool = False,
    room: Room | None = None,
    stored: str = "float32",
) -> Tensor:
    """Encode views of one size; where they do not fit into a GPU's memory together, in smaller parts.

    Parameters
    ----------
    encoder : on the device to use
    views : float32, (B, H, W), 0..255
        From :func:`hela_store.images.normalise.apply`.
    precision : str
        ``"float32"``, or ``"bfloat16"`` / ``"float16"`` for autocast.
    cut : int
        Stop after so many blocks; None runs them all.
    compiled : bool
        Through ``torch.compile``, which takes minutes once a process and changes the last bits.
    room : Room
        What is known of the memory from earlier calls.
    stored : str
        Round to this dtype on the device, so that half as many bytes are copied from a GPU; values that it cannot hold
        leave all as they are, in float32.

    Returns
    -------
    float32, or as stored, (B, 256, 64, 64), on the CPU; tokens, (B, 64, 64, C), where it is cut

    Raises
    ------
    RecipeError
        A single view does not fit; ``torch.compile`` does not work here.
    """
    return begin_encode(encoder, views, precision, cut, compiled=compiled, room=room, stored=stored)()


def begin_encode(
    encoder: ImageEncoderViT | TinyViT,
    views: Tensor | npt.NDArray[np.float32],
    precision: str = "float32",
    cut: int | None = None,
    *,
    compiled: bool = False,
    room: Room | None = None,
    stored: str = "float32",
) -> Fetch:
    """Give a GPU the work of :func:`encode` and do not wait for it; a CPU has done it when this returns.

    Parameters and errors are those of :func:`encode`.

    Returns
    -------
    callable
        Waits for the device and returns what :func:`encode` does.
    """
    device = next(encoder.parameters()).device

    def some(part: slice) -> Fetch:
        fetch = _encode(encoder, views[part], precision, cut, compiled=compiled, stored=stored)
        # where memory is short nothing of one part stays on the device while the next is encoded
        return fetch if part == slice(0, len(views)) else _fetched(fetch())

    room = room or Room()
    heads = max((part.num_heads for part in encoder.modules() if isinstance(part, ImageAttention)), default=1)
    room.bound(most_at_once(device.type, heads))
    try:
        parts = list(room.each(len(views), device, some))
        return parts[0] if len(parts) == 1 else _fetched(torch.cat([fetch() for fetch in parts]))
    except RuntimeError as error:
        if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise RecipeError(
                f"torch.compile does not work here ({str(error).strip().splitlines()[0]}); leave --compile out"
            ) from error
        raise


def whole_embedding(encoder: ImageEncoderViT | TinyViT, x_BCHW: Tensor) -> Tensor:
    """Encode normalised, padded images, (B, 3, 1024, 1024); return (B, 256, 64, 64) on the encoder's device."""
    out: Tensor = encoder(x_BCHW) if isinstance(encoder, TinyViT) else image_embedding(encoder, x_BCHW)
    return out


def _forward(encoder: ImageEncoderViT | TinyViT, x_BCHW: Tensor, cut: int | None) -> Tensor:
    return whole_embedding(encoder, x_BCHW) if cut is None else trunk_tokens(encoder, x_BCHW, cut)


@functools.cache
def _compiled_forward() -> Callable[[ImageEncoderViT | TinyViT, Tensor, int | None], Tensor]:
    return torch.compile(_forward, dynamic=False)


@torch.inference_mode()
def _encode(
    encoder: ImageEncoderViT | TinyViT,
    views: Tensor | npt.NDArray[np.float32],
    precision: str,
    cut: int | None,
    *,
    compiled: bool,
    stored: str,
) -> Fetch:
    forward = _compiled_forward() if compiled else _forward
    device = next(encoder.parameters()).device
    x_BCHW = _prepared(torch.as_tensor(views, dtype=torch.float32), device)
    half = getattr(torch, precision)
    with ieee(device), torch.autocast(device.type, dtype=half, enabled=half is not torch.float32):
        embedding = forward(encoder, x_BCHW, cut)
    return _begin_fetch(embedding.float(), getattr(torch, stored))


def _prepared(views: Tensor, device: torch.device) -> Tensor:
    if device.type in PREPARED_BEFORE:
        return preprocess(views.cpu()).to(device)
    if device.type == "cuda" and views.device.type == "cpu":
        # a copy from pageable memory would wait until the GPU has done the work before it
        return preprocess(views.pin_memory().to(device, non_blocking=True))
    return preprocess(views.to(device))


def _begin_fetch(embedding: Tensor, dtype: torch.dtype) -> Fetch:
    """Round an embedding on its device and begin to copy it from there.

    Values that the dtype cannot hold leave the embedding as it is: an error is to name the value, which the rounded
    ones no longer say.
    """
    device, rounded = embedding.device, embedding.to(dtype)
    if device.type != "cuda":
        return _fetched((rounded if rounded is embedding or bool(rounded.isfinite().all()) else embedding).cpu())
    finite = rounded.isfinite().all()
    copying = _copying(device)
    copying.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(copying):
        # the driver would copy to pageable memory through a small buffer of its own, and wait for it
        found, whole = (
            torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)
            for part in (rounded, finite)
        )
        copied = copying.record_event()
    for part in (rounded, finite):
        # nothing else holds them, and their memory would be the next batch's while the copy still waits
        part.record_stream(copying)

    def fetch() -> Tensor:
        copied.synchronize()
        return found if bool(whole) else embedding.cpu()

    return fetch


@functools.cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies from a GPU, which computes meanwhile."""
    return torch.cuda.Stream(device)


def _fetched(embedding: Tensor) -> Fetch:
    return lambda: embedding
