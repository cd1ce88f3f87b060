"""Seconds per view of SAM's encoder: as its authors run it, in bfloat16, and ours, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor
from torch.utils.flop_counter import FlopCounterMode

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.errors import RecipeError
from hela_store.images.geometry import SAM_INPUT
from hela_store.sam.build import random_sam
from hela_store.sam.devices import pick_device
from hela_store.sam.encoder import encode
from hela_store.sam.modeling import Sam
from hela_store.sam.rate import bfloat16_pays, matrix_rate

from .stock import stock_sam

ARCHITECTURES = ("nano", "vit_t", "vit_b", "vit_l", "vit_h")


@dataclass(frozen=True, kw_only=True)
class EncodeRow:
    """One way of encoding.

    Attributes
    ----------
    way : str
        ``"stock float32"`` (``SamPredictor.set_image``), ``"stock bfloat16"`` (the same under autocast), ``"ours
        float32"``, ``"ours bfloat16"``, ``"ours bfloat16 compiled"``.
    seconds : float
        A view, median over the rounds.
    views_per_second : float
    faster : float
        Than stock float32.
    error : float
        Relative to stock float32, L2 norms.
    gflops : float
        GFLOP/s: products of the stock encoder over the time.
    share : float
        Of the matrix-product rate measured here in that precision.
    """

    way: str
    seconds: float
    views_per_second: float
    faster: float
    error: float
    gflops: float
    share: float


@dataclass(frozen=True, kw_only=True)
class EncodeBench:
    """Results for one architecture; ``matrix_gflops`` by precision, ``gflop`` a view."""

    architecture: str
    device: str
    threads: int
    batch: int
    rounds: int
    gflop: float
    matrix_gflops: dict[str, float]
    rows: tuple[EncodeRow, ...]
    notes: tuple[str, ...] = field(default=())


def bench_encode(
    architecture: str,
    *,
    rounds: int = 3,
    batch: int = 1,
    compiled: bool = False,
    device: str = "auto",
    progress: Progress = silent,
) -> EncodeBench:
    """Time the ways of encoding one 1024x1024 view; ``vit_*`` with random weights, which changes no time.

    Parameters
    ----------
    architecture, rounds, batch : which, how often each way is timed, and our views at once
    compiled : also ours through ``torch.compile``

    Raises
    ------
    RecipeError
        Unknown architecture or device.
    """
    if architecture not in ARCHITECTURES:
        raise RecipeError(f"architecture is {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    where = pick_device(device)
    torch.manual_seed(0)
    sam, stock = _models(architecture, where)
    grey = generator("bench encode").integers(0, 256, (SAM_INPUT, SAM_INPUT)).astype(np.uint8)
    ways = _ways(sam, stock, grey, batch, compiled)
    notes: tuple[str, ...] = ()
    if not bfloat16_pays(where):
        ways = {way: run for way, run in ways.items() if "bfloat16" not in way}
        notes = ("bfloat16 left out: its products are slower than half the float32 rate here",)
    rates = {name: matrix_rate(where, getattr(torch, name)) for name in sorted({way.split()[1] for way in ways})}
    # the first run of each also warms up
    found = {way: run() for way, run in ways.items()}
    order = [way for _ in range(rounds) for way in ways]
    seconds = _seconds(ways, progress(order, total=len(order), what=f"bench encode {architecture}"), batch)
    gflop = _gflop(stock)
    return EncodeBench(
        architecture=architecture,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        threads=torch.get_num_threads(),
        batch=batch,
        rounds=rounds,
        gflop=gflop,
        matrix_gflops=rates,
        rows=_rows(found, seconds, rates, gflop),
        notes=notes,
    )


def _models(architecture: str, device: torch.device) -> tuple[Sam, SamPredictor]:
    """Return the model that we run, and its authors' predictor with the same weights."""
    theirs, predictor = stock_sam(architecture)
    ours = theirs
    if architecture == "vit_t":
        ours = random_sam(architecture)
        ours.load_state_dict(theirs.state_dict())
    ours, theirs = (sam.requires_grad_(False).eval().to(device) for sam in (ours, theirs))
    return ours, predictor(theirs)


def _seconds(ways: Mapping[str, Callable[[], object]], order: Iterable[str], batch: int) -> dict[str, float]:
    """Time the ways in this order and return the median of each, s a view; ours take ``batch`` views at once."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in order:
        start = time.perf_counter()
        ways[way]()
        times[way].append((time.perf_counter() - start) / (batch if way.startswith("ours") else 1))
    return {way: float(np.median(values)) for way, values in times.items()}


def _rows(
    found: Mapping[str, torch.Tensor], seconds: Mapping[str, float], rates: Mapping[str, float], gflop: float
) -> tuple[EncodeRow, ...]:
    stock = found["stock float32"]
    return tuple(
        EncodeRow(
            way=way,
            seconds=taken,
            views_per_second=1 / taken,
            faster=seconds["stock float32"] / taken,
            error=float((found[way] - stock).norm() / stock.norm()),
            gflops=gflop / taken,
            share=gflop / taken / rates[way.split()[1]],
        )
        for way, taken in seconds.items()
    )


def _ways(
    sam: Sam, predictor: SamPredictor, grey: npt.NDArray[np.uint8], batch: int, compiled: bool
) -> dict[str, Callable[[], torch.Tensor]]:
    rgb, views = np.repeat(grey[..., None], 3, 2), np.repeat(grey[None].astype(np.float32), batch, 0)

    def stock(half: bool) -> torch.Tensor:
        with torch.autocast(sam.device.type, dtype=torch.bfloat16, enabled=half):
            predictor.set_image(rgb)
        return predictor.get_image_embedding()[0].float().cpu()

    ways = {
        "stock float32": lambda: stock(False),
        "stock bfloat16": lambda: stock(True),
        "ours float32": lambda: encode(sam.image_encoder, views)[0],
        "ours bfloat16": lambda: encode(sam.image_encoder, views, "bfloat16")[0],
    }
    for precision in ("float32", "bfloat16") if compiled else ():
        ways[f"ours {precision} compiled"] = lambda precision=precision: encode(  # type: ignore[misc]
            sam.image_encoder, views, precision, compiled=True
        )[0]
    return ways


@torch.inference_mode()
def _gflop(stock: SamPredictor) -> float:
    with FlopCounterMode(display=False) as counter:
        stock.model.image_encoder(torch.zeros(1, 3, SAM_INPUT, SAM_INPUT, device=stock.device))
    return counter.get_total_flops() / 1e9
