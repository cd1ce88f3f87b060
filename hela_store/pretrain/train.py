"""The one loop that makes ``nano``: read it top to bottom.

Every step draws crops by a key of (seed, step), so a resumed run continues with the same batches. The decoder is
trained as SAM's was (Kirillov et al. 2023, section A): one first prompt for each cell (box, point or degraded mask),
then with its own logits fed back and a corrective click in the region of its error; of three masks for one point only
the best learns; predicted IoU is trained along. Weights are averaged (EMA) and the average is what is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress
from hela_store.base.rng import generator
from hela_store.base.tensors import safetensors_bytes
from hela_store.errors import RunError
from hela_store.prompts.logits import LOGIT
from hela_store.sam.checkpoints import read_state
from hela_store.sam.clicks import corrected_prompts
from hela_store.sam.decoder import SamDecoder, SamPrompts, crop_windows
from hela_store.sam.fast_encoder import image_embedding, normalise_input
from hela_store.sam.modeling import Sam
from hela_store.sam.nano import build_nano, load_nano
from hela_store.sam.rate import bfloat16_pays
from hela_store.training.losses.decoder import decoder_loss
from hela_store.training.schedule import learning_rate
from hela_store.training.trainer import load_training, save_training

from .config import PretrainConfig
from .crops import PromptGroup, TrainingBatch, draw_batch
from .muon import MuonAdamW
from .sources import Pool, parse_data, read_sources, synthetic_sources

SAVE_SECONDS = 120.0
IOU_WEIGHT = 3.0
"""Of predicted IoU: it orders the answers wherever nobody labels, so it has to follow the truth closely."""
ARCHITECTURE = "nano2"
FIRST = "nano@1"
ADDED = tuple(f"image_encoder.blocks.{number}." for number in (4, 5, 6))
"""What the second edition has beyond the first."""


def crop_sizes(share: float, step: int) -> tuple[int, int]:
    """Return (crops, edge length in SAM input px) of a step: a third of the steps see whole views, at the end half.

    256 px holds every nucleus; 512 and 1024 px bring large cells, the widest windows and what the encoder's coarse
    tokens are for.
    """
    turn = step % 6
    if turn < (2 if share < 0.6 else 3):
        return 1, 1024
    return (2, 512) if turn % 2 else (4, 256)


class Batches(Dataset[TrainingBatch]):
    """Batch ``i`` is a pure function of (seed, i)."""

    def __init__(self, config: PretrainConfig, pools: list[Pool]) -> None:
        self.config, self.pools, self.first = config, pools, 0

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __getitem__(self, index: int) -> TrainingBatch:
        """Draw the batch of step ``first + index``."""
        step = self.first + index
        # weights to start from have seen their small crops
        count, size = crop_sizes(1.0 if self.config.init else step / self.config.steps, step)
        most = self.config.most * min(size, 512) // 256
        return draw_batch(("pretrain", self.config.seed, step), self.pools, (count, size), most)


def embed_crops(nano: Sam, images_BCHW: Tensor) -> Tensor:
    """Return the embeddings of crops, float32, (B, 256, H / 16, W / 16); images are 0..255, one channel."""
    return image_embedding(nano.image_encoder, normalise_input(images_BCHW.expand(-1, 3, -1, -1))).float()


def first_prompts(group: PromptGroup) -> SamPrompts:
    """Return the prompts as given for a cell, before any correction."""
    if group.kind == "box":
        return SamPrompts(boxes=group.boxes)
    if group.kind == "point":
        return SamPrompts(points=group.points[:, None], point_labels=torch.ones(len(group.points), 1))
    return SamPrompts(masks=(group.masks[:, None].float() * 2 - 1) * LOGIT)


def group_loss(nano: Sam, embeddings: Tensor, group: PromptGroup, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the summed loss of one group of prompts over its passes, and the first pass's IoUs, (B,)."""
    decoder = SamDecoder(nano.prompt_encoder, nano.mask_decoder)
    window = crop_windows(embeddings[group.image], group.local, group.window)
    logits, iou = decoder.decode(window, first_prompts(group), group.origins)
    loss, first = decoder_loss(logits, iou, group.truth, multimask=group.kind == "point", iou_weight=IOU_WEIGHT)
    if rng.random() < 0.4:
        again = corrected_prompts(first_prompts(group), logits[:, 0], group.truth, group.origins, rng)
        logits, iou = decoder.decode(window, again, group.origins)
        loss = loss + decoder_loss(logits, iou, group.truth, multimask=False, iou_weight=IOU_WEIGHT)[0]
    return loss.sum(), first


@dataclass
class State:
    """All that a resumed run needs."""

    nano: Sam
    average: Sam
    optimizer: MuonAdamW
    step: int = 0
    seconds: float = 0.0

    def save(self, folder: Path, config: PretrainConfig) -> None:
        """Write ``state.safetensors``, to go on from, and the averaged weights as ``nano.safetensors``."""
        about = {"step": str(self.step), "seconds": str(self.seconds), "config": json.dumps(asdict(config))}
        parts = {"nano": self.nano.state_dict(), "average": self.average.state_dict()}
        save_training(folder / "state.safetensors", parts, self.optimizer, about)
        half = {k: v.half().contiguous() for k, v in self.average.state_dict().items() if not k.startswith("pixel")}
        write_atomic(folder / "nano.safetensors", safetensors_bytes(half, about))

    def load(self, folder: Path, config: PretrainConfig) -> None:
        """Go on from ``state.safetensors``; RunError if it belongs to another configuration.

        Only ``steps`` and ``precision`` may differ: fewer steps bring the learning rate down earlier, and the next CPU
        may be one without bfloat16 products.
        """
        parts, about = load_training(folder / "state.safetensors", self.optimizer)
        found, wanted = json.loads(about["config"]), asdict(config)
        wanted["data"] = list(wanted["data"])
        changed = [k for k in wanted if k not in ("steps", "precision") and found.get(k) != wanted[k]]
        if changed:
            raise RunError(f"{folder} was trained with other {', '.join(changed)}; use another --out folder")
        self.nano.load_state_dict(parts["nano"])
        self.average.load_state_dict(parts["average"])
        self.step, self.seconds = int(about["step"]), float(about["seconds"])


def make_state(config: PretrainConfig) -> State:
    """Return fresh weights of ``config.seed`` and their optimiser."""
    torch.manual_seed(config.seed)
    nano = build_nano(ARCHITECTURE).train()
    if config.init:
        start_from(nano, Path(config.init))
    average = build_nano(ARCHITECTURE).eval()
    average.load_state_dict(nano.state_dict())
    dtype = getattr(torch, config.precision)
    if config.decoder_only:
        nano.image_encoder.requires_grad_(False)
    learning = [(name, value) for name, value in nano.named_parameters() if value.requires_grad]
    optimizer = MuonAdamW(learning, lr=config.lr, weight_decay=config.weight_decay, dtype=dtype)
    return State(nano=nano, average=average, optimizer=optimizer)


def start_from(nano: Sam, path: Path) -> None:
    """Take the weights of either edition, or of the shipped first one where ``path`` is ``nano@1``.

    Raises
    ------
    RunError
        The file is of no nano.
    """
    state = load_nano().state_dict() if str(path) == FIRST else read_state(path)
    expected = nano.state_dict()
    odd = [name for name, value in state.items() if name not in expected or value.shape != expected[name].shape]
    missing = [name for name in expected if name not in state and not name.startswith(ADDED)]
    if odd or missing:
        raise RunError(
            f"{path} is of no nano ({(odd + missing)[0]} does not fit); expected nano@1 or a nano.safetensors"
        )
    nano.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)


def open_pools(config: PretrainConfig, progress: Progress) -> list[Pool]:
    """Draw the scenes and read the training parts of the folders."""
    count = config.scenes
    scenes = list(progress(synthetic_sources(config.seed, 0, count), total=count, what="scenes"))
    named = [parse_data(text) for text in config.data]
    real = [Pool(name=folder.name, weight=weight, sources=read_sources(folder)["train"]) for folder, weight in named]
    total = sum(pool.weight for pool in real)
    drawn = Pool(name="drawn", weight=total * config.drawn / (1 - config.drawn) if real else 1.0, sources=scenes)
    return [drawn, *real]


def train_step(state: State, batch: TrainingBatch, config: PretrainConfig) -> dict[str, float]:
    """Make one optimiser step and update the average; returns loss and mean IoU by prompt kind."""
    rng = generator("passes", config.seed, state.step)
    how: dict[str, Any] = {"steps": config.steps, "warmup": config.warmup}
    for part in state.optimizer.param_groups:
        part["lr"] = learning_rate(state.step, peak=config.lr, floor=0.01, **how)
    # the decoder's many small products gain nothing from bfloat16
    halved = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bfloat16")
    with halved, torch.set_grad_enabled(not config.decoder_only):
        embeddings = embed_crops(state.nano, batch.images)
    results = [(group.kind, *group_loss(state.nano, embeddings, group, rng)) for group in batch.groups]
    count = sum(len(iou) for _, _, iou in results)
    loss = torch.stack([part for _, part, _ in results]).sum() / count
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.nano.parameters(), 1.0)
    state.optimizer.step()
    decay = min(config.ema, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.nano.parameters()), 1 - decay)
    state.step += 1
    kinds = {kind: torch.cat([iou for k, _, iou in results if k == kind]) for kind in {k for k, _, _ in results}}
    return {"loss": float(loss.detach()), **{f"iou_{kind}": float(iou.mean()) for kind, iou in kinds.items()}}


def pretrain(folder: Path, config: PretrainConfig, progress: Progress, report: Callable[[str], None]) -> Path:
    """Train ``nano``, or go on where ``folder`` left off; returns the path of the averaged weights.

    Parameters
    ----------
    folder : where ``state.safetensors``, ``nano.safetensors`` and ``log.jsonl`` are written

    Raises
    ------
    RunError
        The folder is of another configuration, or this CPU only emulates the products of ``config.precision``.
    """
    if config.precision == "bfloat16" and not bfloat16_pays(torch.device("cpu")):
        raise RunError("this CPU multiplies bfloat16 far slower than float32; add --precision float32")
    folder.mkdir(parents=True, exist_ok=True)
    state = make_state(config)
    if (folder / "state.safetensors").exists():
        state.load(folder, config)
        report(f"going on at step {state.step} of {config.steps}")
    pools = open_pools(config, progress)
    batches = Batches(config, pools)
    batches.first = state.step
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    last, started, before = time.monotonic(), time.monotonic(), state.seconds
    rows: list[dict[str, float]] = []
    try:
        for batch in progress(_once(loader), total=len(batches), what="pretrain"):
            rows.append(train_step(state, batch, config))
            state.seconds = before + time.monotonic() - started
            if len(rows) == 50 or state.step == config.steps:
                _log(folder, state, rows)
                rows = []
            if time.monotonic() - last > SAVE_SECONDS:
                state.save(folder, config)
                last = time.monotonic()
    finally:
        state.save(folder, config)
    return folder / "nano.safetensors"


def _once(loader: DataLoader[TrainingBatch]) -> Iterator[TrainingBatch]:
    yield from loader


def _log(folder: Path, state: State, rows: list[dict[str, float]]) -> None:
    keys = sorted({key for row in rows for key in row})
    mean = {key: round(float(np.mean([row[key] for row in rows if key in row])), 4) for key in keys}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": state.step, "seconds": round(state.seconds), **mean}) + "\n")
