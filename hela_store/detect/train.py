"""Train the ``grid`` head on stored embeddings; the image encoder is never loaded.

The validation block decides which weights are kept, when to stop, and at which score a detection counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import catalog
from ..errors import RecipeError, RunError
from ..leaks import block_ranges, check_twins
from ..progress import Progress, silent
from ..random import generator
from ..runs import new_run
from ..sam.encoder import pick_device
from ..store import Store
from ..stream import training_views
from .head import GridHead, save_head
from .losses import head_loss, stack_targets
from .propose import detect_frame
from .scores import FramePairs, best_confidence, count
from .targets import GRID, Targets, position_px, view_targets
from .truth import box_pairs, scorable_frames, tile_embeddings, truths

Batch = tuple[Tensor, dict[str, Tensor], list[np.ndarray]]
"""Embeddings, maps of the targets, and boxes of whole cells by view."""

KIND = "detector"
PATIENCE = 4
"""Validations without a better one after which training ends."""
WARMUP = 30
MARGIN = 1e-4


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is trained.

    Attributes
    ----------
    backend : ``"grid"``
    steps : optimiser steps at most, ``batch`` views each
    batch : views a step
    lr : of AdamW at its peak; then a cosine to a tenth
    weight_decay : of AdamW
    seed : of weights and order
    evaluate_every : steps between validations; 0 for an epoch, but at least four times a run
    workers : loader processes that prepare batches ahead
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    backend: str = "grid"
    steps: int = 800
    batch: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0
    evaluate_every: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.backend != "grid":
            raise RecipeError(f"backend is {self.backend!r}, expected grid; `detect import` takes boxes of others")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise RecipeError(f"lr is {self.lr}, expected a positive number such as 2e-3")
        for name, least in (("steps", 1), ("batch", 1), ("evaluate_every", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """A trained detector on the validation block.

    Attributes
    ----------
    run : id
    threshold : score from which a detection counts
    precision, recall, f1 : at that threshold, box IoU 0.5
    f1_70 : at box IoU 0.7
    best_step : step of the weights that were kept
    seconds : of training, validations included
    """

    run: str
    threshold: float
    precision: float
    recall: float
    f1: float
    f1_70: float
    best_step: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store detect train --json`` prints."""
        return asdict(self) | {"split": "val"}


class DetectionViews(Dataset[tuple[Tensor, Targets]]):
    """Views ``first .. first + count - 1`` of an endless, shuffled series, with their targets.

    View ``i`` is a pure function of (seed, i), whatever the number of workers.
    """

    def __init__(self, store: Store, *, seed: int, first: int, count: int) -> None:
        self.path, self.key, self.seed, self.first, self.count = store.path, store.key, seed, first, count
        self.views = training_views(store)
        self.start_method = store.arrays.start_method
        self.cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
        places = {row["frame"]: (row["group"], row["row"]) for row in store.frames_table().to_pylist()}
        for cell in store.cells_table().select(["frame", "label", "x0", "y0", "x1", "y1"]).to_pylist():
            self.cells.setdefault(places[cell["frame"]], []).append(cell)
        self._store: Store | None = None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}

    def __getitem__(self, index: int) -> tuple[Tensor, Targets]:
        """Return the embedding, float32 (256, 64, 64), and the targets of view ``first + index``."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        epoch, place = divmod(self.first + index, len(self.views))
        order = generator("detector", self.seed, epoch).permutation(len(self.views))
        view = self.views[order[place]]
        if self._store is None:
            self._store = Store.open(self.path)
        arrays, where = self._store.arrays, (view.group, view.group_row)
        embedding = torch.from_numpy(np.asarray(arrays.embedding(self.key, view.row), np.float32))
        targets = view_targets(arrays.label(*where), arrays.valid(*where), self.cells[where], view.rect)
        return embedding, targets


def learning_rate(config: DetectorConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    warm = min(1.0, (step + 1) / WARMUP)
    return config.lr * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def train_detector(store: Store, config: DetectorConfig, *, progress: Progress = silent) -> DetectorResult:
    """Train a detector and publish it as a run of kind ``"detector"``.

    Raises
    ------
    SplitError, StoreError
        The training or validation block is empty, or not embedded; a test frame has the pixels of one that trains.
    RunError
        The loss is not finite.
    """
    check_twins(store)
    views = DetectionViews(store, seed=config.seed, first=0, count=config.steps * config.batch)
    validation = scorable_frames(store, "val")
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    head = GridHead(_typical_side(views)).to(device)
    about = asdict(config) | {"encoder": store.key, "checkpoint": None, "split": "train"}
    about |= {"frames": block_ranges(store)}
    folder = new_run(store.path, KIND, about, label=config.backend)
    start = time.monotonic()
    with folder.tidied():
        best = _Best()
        optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        every = config.evaluate_every or max(1, min(len(views.views) // config.batch, math.ceil(config.steps / 4)))
        loader = DataLoader(
            views,
            batch_size=config.batch,
            num_workers=config.workers,
            collate_fn=_collate,
            multiprocessing_context=views.start_method if config.workers else None,
        )
        losses: list[float] = []
        for step, batch in enumerate(progress(iter(loader), total=config.steps, what="detect train"), 1):
            losses.append(_step(head.train(), optimizer, batch, learning_rate(config, step - 1)))
            if step % every == 0 or step == config.steps:
                _validate(store, head.eval(), validation, best, step)
                folder.log(step=step, loss=float(np.mean(losses)), f1=best.last, best_f1=best.f1)
                losses = []
                if best.waited >= PATIENCE:
                    break
        head.load_state_dict(best.weights)
        save_head(folder.path / "weights.safetensors", head, store.key)
        result = _result(folder.id, best, time.monotonic() - start)
        folder.log(step=best.step, result=result.to_json())
        folder.publish()
    catalog.index(store.path)
    return result


@dataclass
class _Best:
    weights: dict[str, Tensor] | Any = None
    frames: Sequence[FramePairs] = ()
    threshold: float = 0.5
    f1: float = -1.0
    last: float = -1.0
    step: int = 0
    waited: int = 0


def _collate(parts: list[tuple[Tensor, Targets]]) -> Batch:
    targets = [target for _, target in parts]
    return torch.stack([e for e, _ in parts]), stack_targets(targets), [target.boxes for target in targets]


def _step(head: GridHead, optimizer: torch.optim.Optimizer, batch: Batch, lr: float) -> float:
    device = next(head.parameters()).device
    embedding, truth, boxes = batch
    for group in optimizer.param_groups:
        group["lr"] = lr
    output = head(embedding.to(device))
    loss = head_loss(output, {name: value.to(device) for name, value in truth.items()}, boxes)
    if not torch.isfinite(loss):
        raise RunError(f"the detector's loss became {float(loss.detach())}; lower --lr")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def _validate(store: Store, head: GridHead, frames: Sequence[str], best: _Best, step: int) -> None:
    pairs = []
    for truth in truths(store, frames):
        tiles = [tile.rect for tile in truth.frame.tiles]
        found = detect_frame(head, tile_embeddings(store, truth.frame), tiles, truth.frame.shape)
        pairs.append(box_pairs(found, truth))
    threshold, f1 = best_confidence(pairs)
    best.last = f1
    best.waited += 1
    if f1 > best.f1 + MARGIN:
        best.threshold, best.f1, best.step, best.waited, best.frames = threshold, f1, step, 0, pairs
        best.weights = {name: value.detach().clone() for name, value in head.state_dict().items()}


def _typical_side(views: DetectionViews) -> float:
    """Return the median side of the training cells' boxes, positions of the head's grid."""
    sides = [max(c["x1"] - c["x0"], c["y1"] - c["y0"]) / position_px(v.rect) for v in views.views[:50] for c in v.cells]
    return float(np.clip(np.median(sides), 1.0, GRID))


def _result(run: str, best: _Best, seconds: float) -> DetectorResult:
    at = count(best.frames, best.threshold, 0.5)
    return DetectorResult(
        run=run,
        threshold=best.threshold,
        precision=at.precision,
        recall=at.recall,
        f1=at.f1,
        f1_70=count(best.frames, best.threshold, 0.7).f1,
        best_step=best.step,
        seconds=seconds,
    )
