"""Interpolation whose gradient a GPU gives twice alike: two fixed matrix products, one along each side.

torch's own gradient of an interpolation is summed on a GPU in whatever order its threads arrive, so that no training
could be repeated to the bit. A CPU sums in order, and keeps torch's.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import interpolate

BY_PRODUCTS = ("cuda", "mps")
"""Devices on which an interpolation is two matrix products."""


def resize(x_BCHW: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Return what ``interpolate(x, size, mode=mode, align_corners=False)`` does, except for rounding on a GPU.

    Parameters
    ----------
    x_BCHW : floating point, (B, C, H, W)
    size : rows and columns of the result
    mode : ``"bilinear"`` or ``"bicubic"``
    """
    if x_BCHW.device.type not in BY_PRODUCTS:
        return interpolate(x_BCHW, size=size, mode=mode, align_corners=False)
    rows, columns = (
        _weights(given, wanted, mode, x_BCHW.device) for given, wanted in zip(x_BCHW.shape[2:], size, strict=True)
    )
    with torch.autocast(x_BCHW.device.type, enabled=False):
        return (rows @ x_BCHW.float() @ columns.T).to(x_BCHW.dtype)


@functools.lru_cache(maxsize=64)
def _weights(given: int, wanted: int, mode: str, device: torch.device) -> Tensor:
    """Return how much of each of the ``given`` values is in each of the ``wanted`` ones, float32, (wanted, given)."""
    with torch.inference_mode(False), torch.no_grad():
        unit_11HW = torch.eye(given)[None, None]
        return interpolate(unit_11HW, size=(wanted, given), mode=mode, align_corners=False)[0, 0].to(device)
