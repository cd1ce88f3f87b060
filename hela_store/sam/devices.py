"""Devices: which one a user named, what its memory holds, and exact, repeatable float32 on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hela_store.errors import RecipeError

DEVICES = ("auto", "cpu", "cuda", "mps")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS repeats itself only in a workspace of fixed size; without this variable torch refuses repeatable products."""
# torch asks for it once a process, at the first product on a GPU, and every one of ours comes after this import
os.putenv(WORKSPACE, ":4096:8")
NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What errors other than torch's OutOfMemoryError say where memory is short: MPS, cuBLAS, cuDNN, the CUDA runtime."""


def pick_device(name: str = "auto") -> torch.device:
    """Return the device a user named; ``"auto"`` is cuda, then mps, then cpu.

    Parameters
    ----------
    name : one of :data:`DEVICES`, or one GPU of several, such as ``"cuda:1"``

    Raises
    ------
    RecipeError
        Unknown, or not on this machine.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    kind, colon, index = name.partition(":")
    if kind not in there or (colon and not (index.isascii() and index.isdecimal())):
        raise RecipeError(f"device is {name!r}, expected one of {', '.join(DEVICES)}, or one GPU such as cuda:0")
    if int(index or 0) >= there[kind]:
        has = ", ".join(f"{kind}:{i}" if kind == "cuda" else kind for kind, n in there.items() for i in range(n))
        raise RecipeError(f"device {name} is not on this machine; it has {has}")
    return torch.device(name)


def in_turn(name: str, number: int) -> str:
    """Return the device of the ``number``-th of several processes: one GPU after another where no index was asked for.

    Parameters
    ----------
    name : as of :func:`pick_device`
    number : int
    """
    device = pick_device(name)
    if device.type != "cuda" or device.index is not None:
        return name
    return f"cuda:{number % torch.cuda.device_count()}"


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device has no memory left; torch has several for that."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in NO_ROOM)


def free_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


MPS_BYTES = 1 << 32
"""MPS ends the process, which no handler sees, where a single array takes so much."""
POSITIONS = 64 * 64
"""Of the grid over which SAM's global attention goes."""


def most_at_once(kind: str, heads: int) -> int | None:
    """Return how many images may be encoded at once, None where only memory says.

    On MPS the float32 scores of global attention are one array: five images with the 12 heads of ViT-B stay below its
    limit, three with the 16 of ViT-L and ViT-H.

    Parameters
    ----------
    kind : ``"cpu"``, ``"cuda"`` or ``"mps"``
    heads : of the encoder's attention
    """
    return max(1, (MPS_BYTES - 1) // (heads * POSITIONS**2 * 4)) if kind == "mps" else None


class Room:
    """Describe how many images a device has memory for at once; found by trying, and kept for the next time.

    Attributes
    ----------
    most : int or None
        None until something did not fit.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def bound(self, most: int | None) -> None:
        """Have no more than so many at once, even untried; None is no bound."""
        if most is not None:
            self.most = min(self.most or most, most)

    def each(self, count: int, device: torch.device, work: Callable[[slice], Any]) -> Iterator[Any]:
        """Yield what ``work`` returns for one slice of ``count`` images after another, as large as there is room for.

        Raises
        ------
        RecipeError
            There is none for a single one.
        """
        first = 0
        while first < count:
            size = min(self.most or count, count - first)
            try:
                done = work(slice(first, first + size))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise RecipeError(
                        'one view does not fit into the memory of this GPU; use --device cpu, or precision = "bfloat16"'
                    ) from error
            else:
                yield done
                first += size
                continue
            # outside the except clause, where the error still holds the tensors of the attempt
            self.most = size // 2
            free_memory(device)


@contextlib.contextmanager
def ieee(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 on a GPU, whose convolutions otherwise run in TF32: 10 bits of mantissa, not 23."""
    if device.type != "cuda":
        yield
        return
    # the newer settings exist from torch 2.9 on, and the older ones may not be read beside them
    parts: list[tuple[Any, str, Any]] = (
        [
            (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
            (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
        ]
        if hasattr(torch.backends.cudnn, "conv")
        else [
            (torch.backends.cuda.matmul, "allow_tf32", False),
            (torch.backends.cudnn, "allow_tf32", False),
        ]
    )
    before = [getattr(part, name) for part, name, _ in parts]
    try:
        for part, name, value in parts:
            setattr(part, name, value)
        yield
    finally:
        for (part, name, _), value in zip(parts, before, strict=True):
            setattr(part, name, value)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Compute on a GPU the same bits from the same numbers every time, in exact float32; a CPU does so anyway.

    Raises
    ------
    RecipeError
        This process multiplied on a GPU before hela_store was imported.
    RuntimeError
        From torch, within: an operation that cannot be repeated on a GPU.
    """
    if device.type != "cuda":
        yield
        return
    before, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        torch.set_deterministic_debug_mode("error")
        torch.backends.cudnn.benchmark = False
        with ieee(device):
            yield
    except RuntimeError as error:
        if WORKSPACE not in str(error):
            raise
        raise RecipeError(
            f"this process multiplied on the GPU before hela_store was imported, and training needs "
            f"{WORKSPACE}=:4096:8 from the first product on; import hela_store.sam.devices first, or set the variable "
            "before the process starts"
        ) from error
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cudnn.benchmark = benchmark


def libraries(device: torch.device) -> str:
    """Name the versions of CUDA and cuDNN that compute on a device, ``""`` where they do not."""
    if device.type != "cuda":
        return ""
    return f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, TF32 off"
