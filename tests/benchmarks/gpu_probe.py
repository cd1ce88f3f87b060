"""What only a GPU can say: attention by backend, rates and memory of the encoder, and the price of exact repetition.

``python gpu_probe.py attention``, ``encode NAME`` or ``steps STORE``. ``--device cpu --small`` only shows that it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from hela_store.base.rng import generator
from hela_store.sam.build import random_sam
from hela_store.sam.devices import free_memory, out_of_memory, repeatable, synchronize
from hela_store.sam.encoder import encode, preprocess, whole_embedding
from hela_store.sam.fast_encoder import VALUES
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import TrainingSteps
from hela_store.training.finetune import resolve
from hela_store.training.learner import new_learner
from hela_store.training.tuning import TuningTask, new_tuning

SHAPES = {
    "ViT-B, all over": (48, 4096, 64, 128),
    "ViT-B, window": (1200, 196, 64, 28),
    "ViT-H, all over": (64, 4096, 80, 128),
    "ViT-H, window": (1600, 196, 80, 28),
    "nano, window": (256, 256, 48, 32),
}
"""Rows of four views: heads and windows, positions, channels of a head, channels of the folded bias."""
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


def rate(call: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Return calls a second, after two that warm up."""
    for _ in range(2):
        call()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    synchronize(device)
    return repeat / (time.perf_counter() - start)


def attention(device: torch.device, small: bool) -> None:
    """Time every backend on rows as they are and padded to multiples of 8 channels, and on values of 128 channels."""
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for name, (rows, length, channels, more) in SHAPES.items():
            rows, length = (2, 64) if small else (rows, length)
            width = channels + more
            q, k, v = (torch.randn(1, rows, length, width, device=device, dtype=dtype) / width**0.25 for _ in range(3))
            v[..., channels:] = 0
            exact = torch.softmax(q[0, :2].double() @ k[0, :2].double().mT, -1) @ v[0, :2, :, :channels].double()
            even = -(-width // 8) * 8
            for padded, values in sorted({(width, width), (even, even), (even, min(even, VALUES))}):
                rows_q, rows_k = (pad(part, (0, padded - width)) for part in (q, k))
                rows_v = pad(v[..., :channels], (0, values - channels))
                attend = partial(scaled_dot_product_attention, rows_q, rows_k, rows_v, scale=1.0)
                for backend in BACKENDS:
                    if backend == "MATH" and length == 4096:
                        continue  # tens of GiB
                    what = f"{dtype} {name}, {padded} channels, values {values}, {backend}"
                    with sdpa_kernel(getattr(SDPBackend, backend)):
                        try:
                            found = attend()
                            each = 1e3 / rate(attend, device, 10)
                        except RuntimeError as error:
                            print(f"{what}: no ({str(error).splitlines()[0][:60]})")
                            continue
                    off = float((found[0, :2, :, :channels].double() - exact).norm() / exact.norm())
                    print(f"{what}: {each:.2f} ms, error {off:.1e}", flush=True)


def encoder(name: str, device: torch.device, small: bool) -> None:
    """Print views a second, of the forward pass alone and of ``encode``, and the memory, by batch and precision."""
    image_encoder = random_sam(name).image_encoder.eval().requires_grad_(False).to(device)
    for precision in ("float32", "bfloat16", "float16"):
        half = getattr(torch, precision)
        for batch in (1,) if small else (1, 2, 4, 8, 16, 32):
            views = (generator("gpu probe").random((batch, 512, 512)) * 255).astype(np.float32)
            there = torch.from_numpy(views).to(device)

            def forward(there: torch.Tensor = there, half: torch.dtype = half) -> torch.Tensor:
                on = half is not torch.float32
                with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=on):
                    return whole_embedding(image_encoder, preprocess(there))

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            try:
                alone = batch * rate(forward, device, 1 if small else 5)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                print(f"{name} {precision}, batch {batch}: does not fit")
                free_memory(device)
                break
            whole = batch * rate(lambda: encode(image_encoder, views, precision), device, 1 if small else 5)  # noqa: B023
            peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
            print(
                f"{name} {precision}, batch {batch}: forward {alone:.1f}/s, encode {whole:.1f}/s, {peak:.1f} GiB",
                flush=True,
            )


def steps(path: str, device: torch.device, small: bool) -> None:
    """Print training steps a second from memory, as fast as the device can and repeatable to the bit."""
    store, count = Store.open(path), 4 if small else 100
    for prompt in ("box", "point"):
        config = resolve(store, FinetuneConfig.of(prompt=prompt)).config
        data = TrainingSteps(store, prompt, cells=config.prompts.cells, seed=0, first=0, count=count)
        held = [data[index] for index in range(count)]
        for name, how in (("as fast as it can", contextlib.nullcontext()), ("repeatable", repeatable(device))):
            state = new_tuning(new_learner(store, config, device, init=None).train(), config)
            task = TuningTask(config=config)
            with how:
                start = time.perf_counter()
                for step in held:
                    state.optimizer.zero_grad()
                    task.learn(state.network, [step])
                    state.optimizer.step()
                synchronize(device)
            print(f"{prompt}, {name}: {count / (time.perf_counter() - start):.1f} steps/s", flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["attention", "encode", "steps"])
    parser.add_argument("what", nargs="?", default="", help="name of an encoder, or folder of a store")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.part == "attention":
        attention(device, arguments.small)
    elif arguments.part == "encode":
        encoder(arguments.what, device, arguments.small)
    else:
        steps(arguments.what, device, arguments.small)


if __name__ == "__main__":
    main()
