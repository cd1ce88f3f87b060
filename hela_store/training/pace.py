"""Measure how long the steps of a fine-tuning take here and now, so that their number can be chosen before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from hela_store.base.progress import silent
from hela_store.sam.devices import pick_device
from hela_store.store.store import Store

from .budget import training_steps
from .config import FinetuneConfig
from .finetune import resolve
from .learner import new_learner
from .trainer import Plan, Trainer
from .tuning import TuningTask, Views, new_tuning, rate, view_groups

TRIED = 4
"""Steps that are tried; the first one warms up and is not counted."""


def seconds_per_step(store: Store, config: FinetuneConfig) -> float:
    """Return how long an optimiser step takes, from a few steps of this fine-tuning of which nothing is kept.

    Parameters
    ----------
    store : Store
    config : FinetuneConfig
        The fine-tuning that is meant; its number of steps does not matter.

    Raises
    ------
    RecipeError, RunError, StoreError
        As :func:`hela_store.training.finetune.finetune`.
    """
    job = resolve(store, config)
    how, device = job.config, pick_device(job.config.device)
    state = new_tuning(new_learner(job.source, how, device, init=job.init, cache_dir=None, progress=silent), how)
    plan = Plan(what="trying", steps=TRIED, rate=partial(rate, how), clip=1.0)
    begun: list[float] = []

    def batches() -> Iterator[Views]:
        steps = training_steps(job.source, how.with_choices(steps=TRIED), errors=job.errors)
        for batch in view_groups(steps, how, TRIED, device):
            begun.append(time.monotonic())
            yield batch
        begun.append(time.monotonic())

    Trainer(state=state, plan=plan, task=TuningTask(config=how), folder=None).run(batches(), silent)
    return float(np.mean(np.diff(begun)[1:]))
