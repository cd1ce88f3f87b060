"""On which devices a test runs, where a GPU would be waited for, and what it could not repeat."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hela_store.base.progress import silent
from hela_store.training.trainer import Plan, Task, Trainer, Training, open_run

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
SLOW_ON_CPU = (pytest.param("cpu", marks=pytest.mark.slow), DEVICES[1])
"""For ``parametrize("device", SLOW_ON_CPU, indirect=True)``, where the test takes more than two seconds on a CPU."""


def there(name: str) -> torch.device:
    """Return a device; skip the test where this machine does not have it."""
    device = torch.device(name)
    if device.type == "cuda" and torch.cuda.device_count() <= (device.index or 0):
        pytest.skip(f"no device {name}")
    return device


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """Note every time that a GPU is waited for, with the line that does; a CPU never is."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{one.filename}:{one.lineno}" for one in caught if "synchronizing CUDA" in str(one.message)]


@contextmanager
def never_waits(device: torch.device) -> Iterator[None]:
    """Raise RuntimeError where a GPU is waited for."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


UNREPEATABLE = {
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward"),
    *("nll_loss2d_forward", "nll_loss2d_backward", "grid_sampler_2d_backward", "max_unpool2d", "histc", "put_"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "median", "kthvalue", "_ctc_loss_backward"),
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward", "bincount"),
}
"""Operators that a GPU cannot repeat to the bit, from the documentation of ``torch.use_deterministic_algorithms``."""


class Operators(TorchDispatchMode):
    """Notes the names of the operators that are called, forwards and backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Places(TorchDispatchMode):
    """Notes on which devices an operator is called, by the device of its first argument."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.devices = name, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == self.name:
            self.devices.add(args[0].device.type)
        return func(*args, **(kwargs or {}))


def straight_and_resumed(
    store: Path,
    make: Callable[[], Training[Any]],
    task: Task[Any, Any],
    batches: Callable[[range], Iterable[Any]],
    steps: int = 2,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights after so many steps, and after as many with the state saved and read again half-way."""
    plan = Plan(what="fit", steps=steps, rate=lambda step: 1e-3, clip=1.0)

    def run(state: Training[Any], stop: int) -> Training[Any]:
        trainer = Trainer(state=state, plan=replace(plan, steps=stop), task=task, folder=None)
        trainer.run(batches(range(state.step, stop)), silent)
        return state

    folder = open_run(store, "unet", {}, label="half")
    run(make(), steps // 2).save(folder)
    again = make()
    again.resume(folder)
    assert again.step == steps // 2
    return run(make(), steps).weights(), run(again, steps).weights()
