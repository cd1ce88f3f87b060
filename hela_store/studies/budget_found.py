"""Methods that find cells by themselves, on the same budgets: the U-Net and the search of a classical method.

They learn from ground, not from prompts. In a frame whose cells are not all labelled, only the labelled cells and a rim
around them are known; background is learned from frames that are labelled as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.progress import silent
from hela_store.baselines.classical import search, segment
from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.baselines.found import segment_split
from hela_store.baselines.unet import segmenter, train_unet, trained
from hela_store.evaluation.frames import labelled_frames
from hela_store.evaluation.reads import data_read
from hela_store.evaluation.reuse import claim_scoring
from hela_store.evaluation.rows import PREDICTION_SCHEMA, PROMPT_SCHEMA
from hela_store.evaluation.sampled import SampleConfig, sampled_cells
from hela_store.prompts.kinds import NO_PROMPT
from hela_store.runs.folder import RunInfo, new_run
from hela_store.store.labelled import Labelled
from hela_store.store.store import Store
from hela_store.training.budget import budget_settings, labelled
from hela_store.training.config import FinetuneConfig

from .budget_rows import KIND

Segmenter = Callable[[npt.NDArray[Any]], npt.NDArray[np.int32]]


def score_found(store: Store, point: Mapping[str, Any], config: FinetuneConfig, sample: SampleConfig) -> RunInfo:
    """Train or search a method on a budget, and keep its scores on the sampled cells as a run of kind ``"budget"``.

    Parameters
    ----------
    store : with all labels
    point : choices of the study; ``"method"`` is ``"unet"`` or ``"classical"``
    config : its cells, steps, seed and device count
    sample : which cells are scored

    Raises
    ------
    ExtraError
        MONAI is not installed.
    RecipeError, SplitError, StoreError, RunError
        A cell cannot train; nothing to score; the training failed.
    """
    kept = sampled_cells(store, labelled_frames(store, sample.split), sample.cells)
    stored = {
        "encoder": None,
        "base": store.key,
        "checkpoint": point["method"],
        "split": sample.split,
        "cells": len(kept),
    }
    stored |= {"prompts": [NO_PROMPT], "seeds": list(range(sample.prompt_seeds)), "window": None} | dict(point)
    stored |= {"trained": _trained_on(store, config)} | data_read(store, ("train", sample.split))
    with claim_scoring(store, KIND, stored) as done:
        if done is not None:
            return done
        found = _METHODS[point["method"]](store, config)
        rows = segment_split(store, sample.split, found, str(point["method"]), silent)
        folder = new_run(store.path, KIND, stored, label=f"{point['method']} {sample.split}")
        with folder.tidied():
            prompts, predictions = (
                [row for row in part if row["cell"] in kept] for part in (rows.prompts, rows.predictions)
            )
            folder.write_table("prompts", pa.Table.from_pylist(prompts, PROMPT_SCHEMA))
            folder.write_table("predictions", pa.Table.from_pylist(predictions, PREDICTION_SCHEMA))
            folder.log(result={"mean_iou": float(np.mean([row["iou"] for row in predictions]))})
            folder.publish()
        return folder.info


def _trained_on(store: Store, config: FinetuneConfig) -> dict[str, Any]:
    return budget_settings(store, config) | {"seed": config.seed}


def _unet(store: Store, config: FinetuneConfig) -> Segmenter:
    """Train on the ground of the budget, and choose the weights on its held cells."""
    budget = config.budget
    labelled(store, budget)  # a cell that cannot train is named
    learn = Labelled.of(store, budget.train, silent=budget.held)
    held = Labelled.of(store, budget.held)
    about = budget_settings(store, config)
    own = UnetConfig(steps=config.optimiser.steps, seed=config.seed, workers=0, device=config.device)
    info = trained(learn, own, about) or train_unet(learn, own, held=held, about=about)
    return segmenter(store, info, config.device)


def _classical(store: Store, config: FinetuneConfig) -> Segmenter:
    """Search on the cells of the budget; the parameters with the best SEG of these cells win."""
    parameters, about = search(labelled(store, config.budget), ClassicalConfig(seed=config.seed))
    return lambda image: segment(image, about["offset"], about["diameter"], parameters)


_METHODS: dict[str, Callable[[Store, FinetuneConfig], Segmenter]] = {"unet": _unet, "classical": _classical}
