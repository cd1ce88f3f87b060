"""The U-Net baseline: trained on the training frames, chosen on validation, a watershed makes its cells.

It sees frames, neither prompts nor embeddings. A training is a run of kind ``"unet"`` and can be interrupted: its state
is saved, and every step is a pure function of (seed, step) and the weights so far. Scoring a block is another run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hela_store.base.progress import Progress, silent
from hela_store.errors import RunError, SplitError
from hela_store.evaluation.frames import labelled_frames, median_training_radius
from hela_store.evaluation.leaks import check_twins, check_untouched
from hela_store.images.labels import apply_field_of_interest
from hela_store.metrics.ctc import match_frame, seg
from hela_store.runs.finished import find_finished
from hela_store.runs.folder import RunFolder, RunInfo, load_run
from hela_store.sam.devices import pick_device
from hela_store.store.labelled import Labelled
from hela_store.store.store import Store
from hela_store.training.loading import load
from hela_store.training.schedule import learning_rate
from hela_store.training.settings import same_training, training_config
from hela_store.training.trainer import (
    STATE,
    NotFinite,
    Plan,
    Trainer,
    Training,
    Verdict,
    adamw,
    open_run,
)

from .config import UnetConfig
from .found import Labels, pixels, segment_split, spread
from .rows import BaselineResult, once, write_run
from .unet_crops import DIAMETER, Batch, Crops, seen, shrunk
from .unet_labels import BORDER, IGNORED, TRIED, USUAL, UnetParameters, cells
from .unet_network import load_network, new_network, probabilities, save_network

KIND = "unet"
WARMUP = 30
BORDER_WEIGHT = 3.0
"""Of a border pixel in the loss: few decide whether two cells are one."""
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of which validation chooses one."""
VALIDATION_FRAMES = 6
BY_SUMS = ("cuda", "mps")
"""Devices on which the cross-entropy is summed by :func:`summed_cross_entropy` itself."""
VALIDATIONS = 5
"""In a training, where nothing else is said."""


def unet(
    store: Store,
    config: UnetConfig | None = None,
    *,
    split: str = "test",
    rates: Mapping[float, float] | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> BaselineResult:
    """Train, or take the training of this configuration that is there, segment the frames of a split, keep a run.

    Rows are those of :func:`hela_store.baselines.found.segment_split`. A finished run of this very training and split
    is returned as it is.

    Parameters
    ----------
    rates : what :func:`choose_rate` tried, so that the run states it
    fresh : train and score another one in any case

    Raises
    ------
    ExtraError
        MONAI is not installed.
    SplitError, StoreError
        No labelled cell in train, val or the split, or no background in train; nothing was ingested.
    RunError
        The loss is not finite; the run trained on frames that the split tests or validates on now.
    """
    labelled_frames(store, split)
    config = config or UnetConfig()
    info = None if fresh else trained(store, config)
    info = info or train_unet(store, config, resume=not fresh, progress=progress)
    return score_unet(store, info, split=split, device=config.device, rates=rates, fresh=fresh, progress=progress)


def choose_rate(
    store: Store, config: UnetConfig, *, progress: Progress = silent
) -> tuple[UnetConfig, dict[float, float]]:
    """Train at each of :data:`RATES` and return the one that is best on validation, and the SEG of each there."""
    found = {}
    for rate in RATES:
        one = replace(config, lr=rate)
        found[rate] = float(result_of(trained(store, one) or train_unet(store, one, progress=progress))["val_seg"])
    return replace(config, lr=max(found, key=lambda rate: found[rate])), found


def score_unet(
    store: Store,
    info: RunInfo,
    *,
    split: str,
    device: str = "auto",
    rates: Mapping[float, float] | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> BaselineResult:
    """Segment the frames of a split with a published training and keep that as a run; raises as :func:`unet`."""
    check_untouched(store, info, labelled_frames(store, split), split)

    def make(asked: Mapping[str, Any]) -> BaselineResult:
        result = result_of(info)
        parameters, area = UnetParameters(**result["parameters"]), float(result["median_area"])
        run = segment_split(store, split, segmenter(store, info, device), "U-Net", progress)
        about = {"checkpoint": info.id, "split": split, "parameters": asdict(parameters), "median_area": area}
        about |= {"spent": {"steps": info.config["steps"], "seconds": result.get("seconds")}, "asked": asked}
        about |= {"rates": {f"{rate:g}": value for rate, value in (rates or {}).items()}}
        return write_run(store, about, run, label=f"unet {split}", parent=info.id)

    asked = {"method": "unet", "checkpoint": info.id, "split": split}
    return once(store, asked, make, fresh=fresh, progress=progress)


def segmenter(store: Store, info: RunInfo, device: str = "auto") -> Callable[[npt.NDArray[Any]], Labels]:
    """Return what makes a label image of a frame as acquired, with the weights and parameters of a training."""
    network, shrink = load_network(info.weights, pick_device(device))
    result = result_of(info)
    parameters, area = UnetParameters(**result["parameters"]), float(result["median_area"])
    return lambda image: cells(_answer(store, network, image, shrink), parameters, area)


def result_of(info: RunInfo) -> dict[str, Any]:
    """Return what a training ended in; RunError where its log is damaged."""
    if result := info.result():
        return result
    raise RunError(f"run {info.id} is damaged: its log has no result; train another U-Net")


def trained(store: Store, config: UnetConfig, about: Mapping[str, Any] | None = None) -> RunInfo | None:
    """Return the latest published training of this configuration; ``about`` as of :func:`train_unet`."""
    wanted = training_config(store, asdict(config)) | dict(about or {})
    return find_finished(store.path, KIND, lambda run: same_training(run.config, wanted))


def train_unet(
    store: Store,
    config: UnetConfig,
    *,
    held: Labelled | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: Progress = silent,
) -> RunInfo:
    """Train a U-Net, or ``resume`` an interrupted training of this configuration; raises as :func:`unet`.

    Parameters
    ----------
    store : with the labels that train; ground of which nothing is known gives no loss
    config : how
    held : the cells that choose the weights, in place of the validation block
    about : more of the run's configuration, such as the budget of cells
    resume : go on with an interrupted training
    progress : shown step by step
    """
    check_twins(store)
    train, val = labelled_frames(store, "train"), labelled_frames(held or store, "train" if held else "val")
    _check_background(store, train)
    shrink = min(1.0, DIAMETER / (2 * median_training_radius(store)))
    state = _new_training(config)
    stored = training_config(store, asdict(config)) | dict(about or {})
    folder = open_run(store.path, KIND, stored, label=f"seed {config.seed}", resume=resume)
    with folder.tidied(resumable=True):
        state.resume(folder)
        validation = _Validation(held or store, spread(val, VALIDATION_FRAMES), shrink)
        series: dict[str, Any] = {"shrink": shrink, "size": config.batch, "seed": config.seed, "first": state.step}
        crops = Crops(store, train, count=config.steps - state.step, **series)
        trainer = Trainer(state=state, plan=_plan(config), task=_Task(validation=validation), folder=folder)
        trainer.run(load(crops, config.workers), progress)
        _publish(state, folder, validation, progress)
    return load_run(store.path, folder.id, KIND)


class _Validation:
    """Validation frames, and the SEG of a network on them."""

    def __init__(self, store: Store, frames: Sequence[str], shrink: float) -> None:
        self.store, self.frames, self.shrink = store, list(frames), shrink
        self.area = math.pi * median_training_radius(store) ** 2

    def score(self, network: nn.Module, tried: Sequence[UnetParameters], progress: Progress = silent) -> list[float]:
        """Return the SEG of each set of parameters."""
        network.eval()
        band = self.store.recipe.dataset.field_of_interest
        matches: list[list[Any]] = [[] for _ in tried]
        for frame in progress(self.frames, total=len(self.frames), what="choose on val"):
            image, truth = pixels(self.store, frame)
            probability = _answer(self.store, network, image, self.shrink)
            for kept, parameters in zip(matches, tried, strict=True):
                label = cells(probability, parameters, self.area)
                kept.append(match_frame(truth, apply_field_of_interest(label, band)))
        return [seg(kept) for kept in matches]


def _new_training(config: UnetConfig) -> Training[nn.Module]:
    torch.manual_seed(config.seed)
    network = new_network().to(pick_device(config.device))
    optimizer = adamw(list(network.parameters()), lr=config.lr, weight_decay=0.01)
    return Training(network=network, optimizer=optimizer)


def _plan(config: UnetConfig) -> Plan:
    return Plan(
        what="train U-Net",
        steps=config.steps,
        rate=partial(learning_rate, peak=config.lr, steps=config.steps, warmup=WARMUP),
        clip=5.0,
        evaluate_every=config.evaluate_every or math.ceil(config.steps / VALIDATIONS),
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Describe what the U-Net learns, and its SEG on the validation frames."""

    validation: _Validation

    def learn(self, network: nn.Module, batch: Batch) -> Tensor:
        device = next(network.parameters()).device
        weight = torch.tensor([1.0, 1.0, BORDER_WEIGHT], device=device)
        image, classes = (part.to(device) for part in batch)
        # a sum, and a divisor of our own: the mean of a batch without a valid pixel is NaN
        total = summed_cross_entropy(network(image), classes, weight)
        counted = (classes != IGNORED).sum() + (BORDER_WEIGHT - 1) * (classes == BORDER).sum()
        loss = total / counted.clamp(min=1)
        loss.backward()
        return loss.detach()[None]

    def loss(self, batch: Batch, values: list[float]) -> float:
        (loss,) = values
        if not math.isfinite(loss):
            raise NotFinite(f"the U-Net's loss became {loss}")
        return loss

    def validate(self, network: nn.Module) -> Verdict:
        score = self.validation.score(network, [USUAL])[0]
        return Verdict(score=score, row={"val_seg": score})

    def where(self, batch: Batch) -> str:
        return ""


def summed_cross_entropy(logits_BKHW: Tensor, classes_BHW: Tensor, weight_K: Tensor) -> Tensor:
    """Return the weighted cross-entropy summed over all pixels that have a class, one number."""
    if logits_BKHW.device.type in BY_SUMS:
        # torch's own cannot be repeated to the bit on a GPU
        classes = torch.arange(len(weight_K), device=weight_K.device)[:, None, None]
        counted_BKHW = (classes_BHW[:, None] == classes) * weight_K[:, None, None]
        return -(nn.functional.log_softmax(logits_BKHW, 1) * counted_BKHW).sum()
    return nn.functional.cross_entropy(logits_BKHW, classes_BHW, weight_K, ignore_index=IGNORED, reduction="sum")


def _publish(state: Training[nn.Module], folder: RunFolder, validation: _Validation, progress: Progress) -> None:
    state.network.load_state_dict(state.best)
    scores = validation.score(state.network, TRIED, progress)
    best = int(np.argmax(scores))
    save_network(folder.path / "weights.safetensors", state.best, validation.shrink)
    result = {"val_seg": scores[best], "best_step": state.best_step, "parameters": asdict(TRIED[best])}
    result |= {"median_area": validation.area, "shrink": validation.shrink, "val_frames": validation.frames}
    result |= {"seconds": state.seconds}
    folder.log(step=state.step, result=result)
    (folder.path / STATE).unlink(missing_ok=True)
    folder.publish()


def _answer(store: Store, network: nn.Module, image: npt.NDArray[Any], shrink: float) -> npt.NDArray[np.float32]:
    return probabilities(network, shrunk(seen(image, store), shrink), image.shape)


def _check_background(store: Store, frames: Sequence[str]) -> None:
    """Refuse truth that never shows what is no cell: a network would learn that everything is one."""
    wanted = set(frames)
    partial = [row.frame for row in store.frame_records().values() if row.frame in wanted and row.partial]
    if len(partial) == len(wanted):
        raise SplitError(
            f"all {len(wanted)} training frames have partial labels, so no pixel is known to be background; "
            'a U-Net needs complete ones, such as labels = "ST" or "GT+ST"'
        )
