"""Fine-tune a decoder for each block of frames on the other blocks, and look up the detector that judges it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from hela_store.base.progress import Progress
from hela_store.detection.config import DetectorConfig
from hela_store.detection.data import DetectionViews
from hela_store.detection.generic import has_generic_head, load_generic_head
from hela_store.detection.head import GridHead
from hela_store.detection.train import HeadTask, head_plan, new_training
from hela_store.sam.decoder import SamDecoder, load_decoder, save_decoder
from hela_store.sam.devices import pick_device
from hela_store.sam.predict import DEFAULT_WINDOW
from hela_store.store.store import Store
from hela_store.training.budget import training_steps
from hela_store.training.config import FinetuneConfig
from hela_store.training.learner import new_learner
from hela_store.training.trainer import Plan, Trainer
from hela_store.training.tuning import TuningTask, new_tuning, rate, view_groups

from .config import AuditConfig

CLIP = 1.0
"""Largest norm of a decoder's gradient, as in :mod:`hela_store.training.finetune`."""
WAY_OUT = "audit with another --seed"
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
        plan = Plan(what=what, steps=config.steps, rate=partial(rate, how), clip=CLIP, way_out=WAY_OUT)
        trainer = Trainer(state=state, plan=plan, task=TuningTask(config=how), folder=None)
        trainer.run(view_groups(training_steps(store, how), how, config.steps, device), progress)
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
    how = DetectorConfig(steps=DETECTOR_SHARE * config.steps, seed=config.seed, workers=0, device=config.device)
    views = DetectionViews(store, seed=how.seed)
    state = new_training(views, how)
    plan = replace(head_plan(how, len(views.views)), what=what, evaluate_every=0, way_out=WAY_OUT)
    trainer = Trainer(state=state, plan=plan, task=HeadTask(store=store, frames=()), folder=None)
    trainer.run(views.batches(trainer.left, how.batch, how.workers), progress)
    return state.network.eval()
