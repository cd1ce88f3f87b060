"""`hela-store bench adapt`: what a training step costs, by how much of the encoder learns.

Whole encoder, its second half, its last two blocks from stored tokens, and the decoder alone on a stored embedding.
Weights are random and views are drawn: neither decides what a step costs. Every way is timed in a process of its own,
so that its peak of memory is its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.recipe.recipe import BLOCKS, TOKEN_WIDTH, Architecture, EncoderRecipe
from hela_store.sam.adapters import Adapter, adapt_decoder, adapt_encoder, adaptable_blocks, learned
from hela_store.sam.build import build_sam, random_sam
from hela_store.sam.decoder import SamDecoder, SamPrompts
from hela_store.sam.devices import pick_device, synchronize
from hela_store.sam.fast_encoder import drop_trunk
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.training.config import FinetuneConfig, PromptsConfig
from hela_store.training.data import FINE, TrainingStep
from hela_store.training.learner import Learner
from hela_store.training.step import step_loss

DECODER_WAYS = ("decoder", "decoder LoRA")


@dataclass(frozen=True, kw_only=True)
class AdaptBenchConfig:
    """Settings of the benchmark of adapters.

    Attributes
    ----------
    encoder : one that can be cut
    cuts : blocks that stay; None for 0, half of them, and all but two, where adapters fit a block behind the cut
    rank, conv, linear, full : of the adapters, as of a fine-tuning; ``full``: the blocks themselves
    cells : box prompts a step
    steps : that are timed, after one that is not; the median counts
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    encoder: Architecture = "vit_b"
    cuts: tuple[int, ...] | None = None
    rank: int = 4
    conv: bool = False
    linear: bool = False
    full: bool = False
    cells: int = 16
    steps: int = 3
    device: str = "auto"

    def __post_init__(self) -> None:
        for cut in self.cuts or (0,):  # refuses what cannot be cut, and cuts there are not
            EncoderRecipe(architecture=self.encoder, cut=cut)
        blocks = BLOCKS[self.encoder]
        encoder = build_sam(self.encoder).image_encoder
        last = blocks - 1 if self.full else adaptable_blocks(encoder, 0)[-1]
        if self.cuts is None:
            cuts = (0, blocks // 2, blocks - 2)
            object.__setattr__(self, "cuts", tuple(dict.fromkeys(min(cut, last) for cut in cuts)))
        elif not self.full:
            for cut in self.cuts:
                adaptable_blocks(encoder, cut)


@dataclass(frozen=True, kw_only=True)
class AdaptRow:
    """One way of training.

    Attributes
    ----------
    what : str
    cut : blocks whose tokens are read; None where the embedding is
    parameters : that learn
    run_bytes : of what a run keeps, float32
    view_bytes : stored of a view, float16, uncompressed; 0 where the frame is encoded at every step
    seconds : a step
    memory_mib : at its peak, of the process (CPU) or allocated on the device
    """

    what: str
    cut: int | None
    parameters: int
    run_bytes: int
    view_bytes: int
    seconds: float
    memory_mib: float


@dataclass(frozen=True, kw_only=True)
class AdaptBench:
    """All ways, and the settings they were timed under."""

    device: str
    threads: int
    config: AdaptBenchConfig
    rows: tuple[AdaptRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def bench_adapt(config: AdaptBenchConfig | None = None, *, progress: Progress = silent) -> AdaptBench:
    """Time a training step of each way.

    Raises
    ------
    RecipeError
        An unknown device, or a cut or rank that the encoder does not have.
    """
    config = config or AdaptBenchConfig()
    device, threads = pick_device(config.device), torch.get_num_threads()
    assert config.cuts is not None
    ways: list[int | str] = [*config.cuts, *DECODER_WAYS]
    rows = []
    context = multiprocessing.get_context("spawn")
    for way in progress(ways, total=len(ways), what="bench adapt"):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rows.append(pool.submit(time_way, config, way, str(device), threads).result())
    return AdaptBench(device=str(device), threads=threads, config=config, rows=tuple(rows))


def time_way(config: AdaptBenchConfig, way: int | str, device: str, threads: int) -> AdaptRow:
    """Time one way in this process; ``way`` is a cut, or one of :data:`DECODER_WAYS`."""
    torch.set_num_threads(threads)
    learner = _learner(config, way).to(device).train()
    batch = _batch(config, way, torch.device(device))
    window = DEFAULT_WINDOW[config.encoder]
    optimizer = torch.optim.AdamW(list(learned(learner).values()), lr=1e-5)
    taken = []
    for step in range(config.steps + 1):
        start = time.perf_counter()
        _step(learner, batch, FinetuneConfig(prompts=PromptsConfig(window=window)), optimizer, step)
        synchronize(torch.device(device))
        taken.append(time.perf_counter() - start)
    kept = learned(learner.decoder if learner.encoder is None else learner.encoder)
    whole = sum(value.numel() for value in learner.decoder.state_dict().values()) if way != "decoder LoRA" else 0
    beside = 0 if way == "decoder" else sum(value.numel() for value in kept.values())
    tokens = 64 * 64 * (256 if isinstance(way, str) else TOKEN_WIDTH[config.encoder])
    return AdaptRow(
        what=way if isinstance(way, str) else _name(config),
        cut=None if isinstance(way, str) else way,
        parameters=sum(value.numel() for value in learned(learner).values()),
        run_bytes=4 * (whole + beside),
        view_bytes=0 if way == 0 else 2 * tokens,
        seconds=float(np.median(taken[1:])),
        memory_mib=_peak(device),
    )


def _name(config: AdaptBenchConfig) -> str:
    return "encoder, full" if config.full else "encoder Conv-LoRA" if config.conv else "encoder LoRA"


def _learner(config: AdaptBenchConfig, way: int | str) -> Learner:
    sam = random_sam(config.encoder)
    decoder = SamDecoder(sam.prompt_encoder, sam.mask_decoder)
    decoder.prompt_encoder.requires_grad_(False)
    if isinstance(way, str):
        if way == "decoder LoRA":
            adapt_decoder(decoder, Adapter(part="decoder", rank=config.rank))
        return Learner(decoder)
    how = {name: getattr(config, name) for name in ("rank", "conv", "linear", "full")}
    adapt_encoder(sam.image_encoder, Adapter(part="encoder", cut=way, **how))
    drop_trunk(sam.image_encoder, way)
    return Learner(decoder, sam.image_encoder, way)


def _batch(config: AdaptBenchConfig, way: int | str, device: torch.device) -> TrainingStep:
    shapes = {0: (3, 1024, 1024), "tokens": (64, 64, TOKEN_WIDTH[config.encoder]), "embedding": (256, 64, 64)}
    shape = shapes["embedding" if isinstance(way, str) else 0 if way == 0 else "tokens"]
    rng = generator("bench adapt", config.encoder)
    corners = torch.from_numpy(rng.uniform(20, 900, (config.cells, 2))).float()
    boxes = torch.cat([corners, corners + 80], 1)
    truth = torch.zeros(FINE, FINE, dtype=torch.int32)
    for label, (x0, y0, x1, y1) in enumerate((boxes / 2).int().tolist(), 1):
        truth[y0:y1, x0:x1] = label
    seen: Tensor = torch.from_numpy(rng.normal(size=shape)).float()
    return TrainingStep(
        step=0,
        view="",
        embedding=seen.to(device),
        prompts=SamPrompts(boxes=boxes),
        cells=tuple(str(number) for number in range(config.cells)),
        labels=torch.arange(1, config.cells + 1),
        truth=truth,
    )


def _step(
    learner: Learner, batch: TrainingStep, config: FinetuneConfig, optimizer: torch.optim.Optimizer, number: int
) -> None:
    learner.draw_noise("bench adapt", number)
    losses, _ = step_loss(learner.decoder, replace(batch, embedding=learner.embed(batch.embedding)), config)
    optimizer.zero_grad()
    losses.mean().backward()
    optimizer.step()


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts in KiB, macOS in bytes
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
