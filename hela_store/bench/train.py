"""`hela-store bench train`: tuning and evaluation from the store against what one would do without it.

Peers, each beside ours in turn, so that whatever else the machine does hits both: the same steps on tensors that lie in
memory already; the same step with segment-anything's own image encoder in the loop; a loop over
``SamPredictor.predict(multimask_output=False)``, one cell at a time, on the same stored embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor

from hela_store.base.aliases import BoolArray
from hela_store.base.progress import Progress, silent
from hela_store.embedding.record import decoder_file
from hela_store.evaluation.frames import frame_cells, labelled_frames, median_training_radius
from hela_store.evaluation.questions import Question, truth_questions
from hela_store.images.geometry import box_to_sam, resized_shape
from hela_store.metrics.overlap import overlap
from hela_store.sam.build import build_sam
from hela_store.sam.decoder import SamDecoder, load_decoder
from hela_store.sam.devices import pick_device, repeatable, synchronize
from hela_store.sam.encoder import preprocess
from hela_store.sam.modeling import Sam
from hela_store.sam.predict import DEFAULT_WINDOW, Prediction, predict_view
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig, PromptsConfig
from hela_store.training.data import TrainingStep, TrainingSteps, loader_workers
from hela_store.training.loading import load
from hela_store.training.step import step_loss
from hela_store.training.trainer import adamw

from .stock import stock_sam


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig:
    """Settings of the training benchmark.

    Attributes
    ----------
    steps : optimiser steps a round, box prompts
    cells : most cells a step
    rounds : how often every pair is timed; medians count
    encoder : the stock encoder in the loop, as :func:`~hela_store.bench.stock.stock_sam` has it
    encoder_steps : steps with that encoder in the loop, 0 for none
    predictions : cells of the validation block for the evaluation pairs
    workers : loader processes; None for as many as `finetune` starts
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    steps: int = 20
    cells: int = 16
    rounds: int = 3
    encoder: str = "vit_b"
    encoder_steps: int = 2
    predictions: int = 64
    workers: int | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One comparison.

    Attributes
    ----------
    what : str
    unit : str
    ours, peer : medians over the rounds
    ratio : ours over the peer's; above 1 is faster
    mask_iou : mean IoU of our masks with the peer's, where masks are compared
    iou, peer_iou : mean IoU with the truth, where masks are compared
    """

    what: str
    unit: str
    ours: float
    peer: float
    ratio: float
    mask_iou: float | None = None
    iou: float | None = None
    peer_iou: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """All pairs, and the settings they were timed under."""

    device: str
    threads: int
    config: TrainBenchConfig
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def bench_train(store: Store, config: TrainBenchConfig | None = None, *, progress: Progress = silent) -> TrainBench:
    """Time tuning and evaluation from a store against their peers.

    Parameters
    ----------
    store : with the views of its train and val blocks embedded
    config : what is timed
    progress : shown pair by pair

    Raises
    ------
    SplitError, StoreError
        A block is empty, or not embedded.
    """
    config = config or TrainBenchConfig()
    device = pick_device(config.device)
    jobs: list[Callable[[], Sequence[Pair]]] = [
        lambda: [_memory_pair(store, config, device)],
        lambda: [_encoder_pair(store, config, device)] if config.encoder_steps else [],
        lambda: _predictor_pairs(store, config, device),
    ]
    pairs = [pair for job in progress(jobs, total=len(jobs), what="bench train") for pair in job()]
    return TrainBench(device=str(device), threads=torch.get_num_threads(), config=config, pairs=tuple(pairs))


class _Tuner:
    """A decoder and its optimiser, and one step of them, as fine-tuning takes it."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.device = device
        self.decoder = load_decoder(decoder_file(store), device).train()
        self.decoder.prompt_encoder.requires_grad_(False)
        learned = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizer = adamw(learned, lr=1e-5, weight_decay=0.01)
        self.config = FinetuneConfig(prompts=PromptsConfig(window=DEFAULT_WINDOW[store.recipe.encoder.architecture]))

    def step(self, batch: TrainingStep) -> None:
        with repeatable(self.device):
            losses, _ = step_loss(self.decoder, batch, self.config)
            self.optimizer.zero_grad()
            losses.mean().backward()
            self.optimizer.step()


def _steps(store: Store, config: TrainBenchConfig, count: int) -> TrainingSteps:
    return TrainingSteps(store, "box", cells=config.cells, seed=0, first=0, count=count)


def _memory_pair(store: Store, config: TrainBenchConfig, device: torch.device) -> Pair:
    steps, tuner = _steps(store, config, config.steps), _Tuner(store, device)
    workers = loader_workers(config.workers, device, steps.start_method)
    held = [steps[i] for i in range(len(steps))]
    tuner.step(held[0])
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.rounds):
        loader = load(steps, workers, steps.start_method)
        tuner.step(next(loader))  # starting the workers belongs to the run, not to its steps
        rates[0].append(_rate(lambda: _each(tuner.step, loader), len(held) - 1, device))  # noqa: B023
        rates[1].append(_rate(lambda: _each(tuner.step, held[1:]), len(held) - 1, device))
    return _pair("tuning from the store / from memory", "steps/s", rates)


def _encoder_pair(store: Store, config: TrainBenchConfig, device: torch.device) -> Pair:
    steps, tuner = _steps(store, config, config.encoder_steps), _Tuner(store, device)
    held = [steps[i] for i in range(len(steps))]
    encoder = stock_sam(config.encoder)[0].to(device).eval().image_encoder
    views = preprocess(torch.rand(1, 512, 512) * 255).to(device)

    def with_encoder(batch: TrainingStep) -> None:
        with torch.no_grad():
            embedding = encoder(views)[0]
        tuner.step(replace(batch, embedding=embedding))

    tuner.step(held[0])
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.rounds):
        rates[0].append(_rate(lambda: _each(tuner.step, (steps[i] for i in range(len(steps)))), len(held), device))
        rates[1].append(_rate(lambda: _each(with_encoder, held), len(held), device))
    return _pair(f"tuning from the store / stock {config.encoder} encoder in the loop", "steps/s", rates)


def _predictor_pairs(store: Store, config: TrainBenchConfig, device: torch.device) -> list[Pair]:
    decoder = load_decoder(decoder_file(store), device)
    tiles = _tiles(store, config.predictions)
    count = sum(len(questions) for _, questions in tiles)
    architecture = store.recipe.encoder.architecture
    predictor = _predictor(decoder, architecture, device)
    theirs: list[BoolArray] = []
    pairs = []
    for what, window in (("full window", 64), ("default window", DEFAULT_WINDOW[architecture])):
        rates: tuple[list[float], list[float]] = ([], [])
        ours: list[Prediction] = []
        for _ in range(config.rounds):
            ours.clear()
            theirs.clear()
            rates[0].append(_rate(lambda: ours.extend(_ours(decoder, tiles, window, device)), count, device))  # noqa: B023
            rates[1].append(_rate(lambda: theirs.extend(_loop(predictor, tiles, device)), count, device))
        pair = _pair(f"evaluation, {what} {window} / SamPredictor.predict", "cells/s", rates)
        same, iou, peer_iou = _agreement(ours, theirs, [q for _, part in tiles for q in part])
        pairs.append(replace(pair, mask_iou=same, iou=iou, peer_iou=peer_iou))
    return pairs


Tiles = list[tuple[torch.Tensor, list[Question]]]


def _tiles(store: Store, most: int) -> Tiles:
    """Return the first exact-box questions of the validation block, by tile, with the tile's embedding."""
    radius = median_training_radius(store)
    by_row: dict[int, list[Question]] = {}
    for frame in frame_cells(store, labelled_frames(store, "val")):
        for question in truth_questions(frame, ["box-exact"], [0], radius):
            if sum(map(len, by_row.values())) < most:
                by_row.setdefault(question.tile.row, []).append(question)
    rows = {row: np.asarray(store.arrays.embedding(store.key, row), np.float32) for row in by_row}
    return [(torch.from_numpy(rows[row]), questions) for row, questions in by_row.items()]


def _ours(decoder: SamDecoder, tiles: Tiles, window: int, device: torch.device) -> list[Prediction]:
    found = []
    for embedding, questions in tiles:
        prompts = [q.prompt for q in questions]
        # as the peer answers: with every piece
        rect = questions[0].tile.rect
        found += predict_view(decoder, embedding.to(device), rect, prompts, window=window, one_piece=False)
    return found


def _predictor(decoder: SamDecoder, architecture: str, device: torch.device) -> SamPredictor:
    encoder = build_sam(architecture).image_encoder  # never run: the embeddings are there
    sam = Sam(image_encoder=encoder, prompt_encoder=decoder.prompt_encoder, mask_decoder=decoder.mask_decoder)
    sam.pixel_mean, sam.pixel_std = sam.pixel_mean.to(device), sam.pixel_std.to(device)
    return SamPredictor(sam)


def _loop(predictor: SamPredictor, tiles: Tiles, device: torch.device) -> list[BoolArray]:
    masks = []
    for embedding, questions in tiles:
        x0, y0, width, height = questions[0].tile.rect
        predictor.features, predictor.is_image_set = embedding[None].to(device), True
        predictor.original_size, predictor.input_size = (height, width), resized_shape((height, width))
        scale = np.array([predictor.input_size[1] / width, predictor.input_size[0] / height] * 2)
        for question in questions:
            assert question.prompt.box is not None
            box = box_to_sam(question.prompt.box, (x0, y0, width, height)) / scale
            masks.append(predictor.predict(box=box, multimask_output=False)[0][0])
    return masks


def _agreement(
    ours: list[Prediction], theirs: list[BoolArray], questions: list[Question]
) -> tuple[float, float, float]:
    """Return the mean IoU of our masks with theirs, of ours with the truth, and of theirs."""
    rows = []
    for prediction, mask, question in zip(ours, theirs, questions, strict=True):
        corner, truth = question.tile.rect[:2], question.context
        same = overlap(prediction.mask, mask, prediction.origin, corner)
        rows.append(
            (
                # both empty is agreement here, unlike in a score
                1.0 if same.area_a == same.area_b == 0 else same.iou,
                overlap(prediction.mask, truth.mask, prediction.origin, truth.origin).iou,
                overlap(mask, truth.mask, corner, truth.origin).iou,
            )
        )
    means = np.mean(rows, axis=0)
    return float(means[0]), float(means[1]), float(means[2])


def _each(step: Callable[[TrainingStep], None], batches: Iterable[TrainingStep]) -> None:
    for batch in batches:
        step(batch)


def _rate(work: Callable[[], object], count: int, device: torch.device) -> float:
    started = time.perf_counter()
    work()
    synchronize(device)
    return count / (time.perf_counter() - started)


def _pair(what: str, unit: str, rates: tuple[list[float], list[float]]) -> Pair:
    # the ratio is taken round by round: what slows the machine for a while slows both
    ratio = float(np.median(np.array(rates[0]) / np.array(rates[1])))
    ours, peer = (float(np.median(part)) for part in rates)
    return Pair(what=what, unit=unit, ours=ours, peer=peer, ratio=ratio)
