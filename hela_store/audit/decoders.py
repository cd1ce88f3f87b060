"""Fine-tune a decoder for each block of frames on the other blocks, and look up the detector that judges it."""

from __future__ import annotations

from pathlib import Path

import torch

from hela_store.base.progress import Progress
from hela_store.detection.data import DetectionViews
from hela_store.detection.generic import has_generic_head, load_generic_head
from hela_store.detection.head import GridHead
from hela_store.detection.losses import head_loss
from hela_store.errors import RunError
from hela_store.sam.decoder import SamDecoder, load_decoder, save_decoder
from hela_store.sam.devices import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.data import TrainingSteps
from hela_store.training.learner import new_learner
from hela_store.training.schedule import learning_rate
from hela_store.training.step import step_loss
from hela_store.training.tuning import new_tuning, rate, view_groups

from .config import AuditConfig

CLIP = 1.0
"""Largest norm of a decoder's gradient, as in :mod:`hela_store.training.finetune`."""
DETECTOR_RATE = 2e-3
DETECTOR_BATCH = 4
DETECTOR_SHARE = 2
"""Steps of a detector for each step of a decoder, where it has to be trained."""


def block_decoder(store: Store, config: AuditConfig, path: Path, *, what: str, progress: Progress) -> SamDecoder:
    """Return the decoder that was fine-tuned on the training block of ``store``, from ``path`` where it lies there.

    Parameters
    ----------
    store : from :func:`hela_store.audit.blocks.judged_blocks`
    config : AuditConfig
    path : where its weights are kept, ``*.safetensors``
    what : name of the work for the progress bar
    progress : Progress

    Raises
    ------
    RunError
        The loss became infinite or NaN.
    """
    device, architecture = pick_device(config.device), store.recipe.encoder.architecture
    if not path.exists():
        how = FinetuneConfig.of(prompt="all", steps=config.steps, cells=config.cells, seed=config.seed, workers=0)
        how = how.with_choices(window=DEFAULT_WINDOW[architecture], variants=0)
        state = new_tuning(new_learner(store, how, device, init=None), how)
        series = TrainingSteps(store, how.prompt, cells=config.cells, seed=config.seed, first=0, count=config.steps)
        state.network.train()
        for views in progress(view_groups(series, how, config.steps, device), total=config.steps, what=what):
            for group in state.optimizer.param_groups:
                group["lr"] = rate(how, state.step)
            state.optimizer.zero_grad()
            loss = sum(step_loss(state.network.decoder, view, how)[0].mean() for view in views)
            assert isinstance(loss, torch.Tensor)  # there is at least one view
            _step(state.optimizer, loss, CLIP)
            state.step += 1
            state.update_mean()
        with state.averaged() as network:
            save_decoder(path, network.decoder, architecture)
    return load_decoder(path, device, of_run=True)


def block_detector(store: Store, config: AuditConfig, *, what: str, progress: Progress) -> GridHead:
    """Return a detector that never saw the labels it judges: the shipped one, or one trained on the training block.

    Parameters
    ----------
    store : from :func:`hela_store.audit.blocks.judged_blocks`
    config : AuditConfig
    what : name of the work for the progress bar
    progress : Progress
    """
    device = pick_device(config.device)
    if has_generic_head(store.recipe.encoder.sha256):
        return load_generic_head(store.recipe.encoder.sha256, device)
    views, steps = DetectionViews(store, seed=config.seed), DETECTOR_SHARE * config.steps
    torch.manual_seed(config.seed)
    head = GridHead(views.typical_side()).to(device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=DETECTOR_RATE, weight_decay=0.01)
    batches = views.batches(range(steps), DETECTOR_BATCH, 0)
    for step, (embedding, truth, boxes) in enumerate(progress(batches, total=steps, what=what)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=DETECTOR_RATE, steps=steps, warmup=min(30, steps))
        optimizer.zero_grad()
        there = {name: value.to(device) for name, value in truth.items()}
        _step(optimizer, head_loss(head(embedding.to(device)), there, boxes), 5.0)
    return head.eval()


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, clip: float) -> None:
    if not torch.isfinite(loss):
        raise RunError(f"the loss of an audit's network became {float(loss.detach())}; audit with another --seed")
    loss.backward()
    values = [value for group in optimizer.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(values, clip)
    optimizer.step()
