"""Say how fast a device multiplies matrices, which says whether bfloat16 pays there."""

from __future__ import annotations

import time

import torch

SIZE = {"cpu": 1024, "cuda": 8192, "mps": 4096}
"""Edge of the matrices."""
WORTH = 0.5
"""bfloat16 may be worth it where its products run at this share of the float32 rate or more."""
PROBE = 64
"""Rows of the product that tells; the whole would take minutes where the instructions are emulated."""

BFLOAT16_FROM = 8
"""Major compute capability from which a CUDA device multiplies bfloat16 in hardware."""


def proposed_precision(kind: str, major: int = 0) -> str:
    """Return the precision to propose for a device; nothing but a user's word sets it.

    Parameters
    ----------
    kind : ``"cpu"``, ``"cuda"`` or ``"mps"``
    major : compute capability of a CUDA device
    """
    return "bfloat16" if kind == "cuda" and major >= BFLOAT16_FROM else "float32"


def proposed_here() -> str:
    """Return what :func:`proposed_precision` says of the device that ``"auto"`` is on this machine."""
    if not torch.cuda.is_available():
        return proposed_precision("cpu")
    return proposed_precision("cuda", torch.cuda.get_device_capability(0)[0])


def bfloat16_pays(device: torch.device) -> bool:
    """Whether bfloat16 products run at half the float32 rate or more; emulated ones are a hundred times slower."""
    half, full = (matrix_rate(device, dtype, rows=PROBE) for dtype in (torch.bfloat16, torch.float32))
    return half >= WORTH * full


def matrix_rate(device: torch.device, dtype: torch.dtype, repeat: int = 3, rows: int | None = None) -> float:
    """Return the rate of matrix products, GFLOP/s, the best of ``repeat``; square, or with fewer rows."""
    size = SIZE[device.type]
    rows = rows or size
    left, right = torch.ones(rows, size, dtype=dtype, device=device), torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(repeat + 1):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2e-9 * rows * size * size / best
