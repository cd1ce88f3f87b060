"""Score a decoder on a sample of a block's cells: enough for a curve of many decoders, all on the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.embedding.encoders import adapts_encoder
from hela_store.errors import RecipeError
from hela_store.prompts.draw import check_prompt_kind
from hela_store.runs.folder import RunInfo, new_run
from hela_store.sam.checkpoints import load_sam_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.fast_encoder import drop_trunk, view_embedding
from hela_store.store.store import Store

from .checkpoint import Checkpoint, resolve_checkpoint
from .evaluate import score_frames
from .frames import FrameCells, frame_cells, labelled_frames, median_training_radius
from .leaks import check_untouched
from .questions import Embed, Question, answer, truth_questions
from .reads import data_read
from .reuse import claim_scoring
from .scores import summarise


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Settings of a scoring on a sample.

    Attributes
    ----------
    split : ``"test"`` or ``"val"``
    prompts : kinds drawn from the truth
    prompt_seeds : draws of each kind a cell gets
    cells : most cells of the block that are scored, the same ones for every decoder
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    split: str = "test"
    prompts: tuple[str, ...] = ("box",)
    prompt_seeds: int = 1
    cells: int = 500
    device: str = "auto"

    def __post_init__(self) -> None:
        for kind in self.prompts:
            check_prompt_kind(kind)
        if self.split not in ("test", "val"):
            raise RecipeError(f"split is {self.split!r}, expected 'test' or 'val'")
        if min(self.prompt_seeds, self.cells) < 1:
            raise RecipeError("prompt_seeds and test_cells are at least 1")


def sampled_cells(store: Store, frames: Sequence[str], most: int) -> dict[str, str]:
    """Return at most so many cells of some frames, drawn by their ids, with the frame of each."""
    wanted = set(frames)
    columns = (store.cells_table()[name].to_pylist() for name in ("cell", "frame"))
    cells = [(cell, frame) for cell, frame in zip(*columns, strict=True) if frame in wanted]
    return dict(sorted(cells, key=lambda one: (generator("sample", one[0]).random(), one[0]))[:most])


def score_sample(
    store: Store,
    run: str | None,
    config: SampleConfig,
    *,
    kind: str,
    about: Mapping[str, Any],
    cache_dir: Path | None = None,
    progress: Progress = silent,
) -> RunInfo:
    """Score a sample of a block's cells and keep prompts, masks and scores as a run; a finished one is returned.

    Parameters
    ----------
    store : with all views of the block embedded, or their tokens where the run adapted the encoder: its blocks then run
        on these, and no embedding of it has to be stored
    run : a fine-tuning run; None for zero-shot
    config : what is scored
    kind : of the run that is made
    about : more of its configuration, such as the budget of the fine-tuning
    cache_dir : where a fetched official checkpoint lies; only an encoder that was adapted is loaded

    Raises
    ------
    SplitError, StoreError, RunError
        Nothing to score, not embedded yet, or a run that trained on the frames to score.
    """
    base, checkpoint = store.key, resolve_checkpoint(store, run)
    store = _read_store(checkpoint)
    frames = labelled_frames(store, config.split)
    check_untouched(store, checkpoint.run, frames, config.split)
    kept = sampled_cells(store, frames, config.cells)
    stored: dict[str, Any] = {
        "encoder": store.key,
        "base": base,
        "checkpoint": checkpoint.id,
        "split": config.split,
        "cells": len(kept),
    }
    stored |= {"prompts": list(config.prompts), "seeds": list(range(config.prompt_seeds)), "window": checkpoint.window}
    stored |= dict(about) | data_read(store, ("train", config.split))
    radius = median_training_radius(store)

    def asker(frame: FrameCells) -> Sequence[Question]:
        return truth_questions(frame, config.prompts, range(config.prompt_seeds), radius)

    with claim_scoring(store, kind, stored, progress=progress) as done:
        if done is not None:
            return done
        folder = new_run(store.path, kind, stored, parent=checkpoint.id, label=config.split)
        with folder.tidied():
            device = pick_device(config.device)
            how: dict[str, Any] = {"window": checkpoint.window, "embed": _embed(checkpoint, device, cache_dir)}
            answered = partial(answer, store, checkpoint.load_decoder(device, floor=True), **how)
            expected = len(kept) * config.prompt_seeds * len(config.prompts)
            shown = partial(progress, total=expected, what=f"score {config.split}, prompts")
            scores = summarise(score_frames(_with(kept, store, frames), asker, answered, folder, shown))
            folder.log(result={"prompts": {name: score.to_json() for name, score in scores.items()}})
            folder.publish()
        return folder.info


def _read_store(checkpoint: Checkpoint) -> Store:
    """Return the store as it is read: with tokens where the run adapted the encoder behind them."""
    run = checkpoint.run
    if run is None or not adapts_encoder(run):
        return checkpoint.store
    return checkpoint.store.with_encoder(adapter="", adapter_sha256="", cut=run.config["cut"])


def _embed(checkpoint: Checkpoint, device: torch.device, cache_dir: Path | None) -> Embed:
    """Return what makes an embedding of what :func:`_read_store` holds of a view."""
    run, recipe = checkpoint.run, checkpoint.store.recipe.encoder
    if run is None or not adapts_encoder(run):
        return lambda x: x
    encoder = load_sam_encoder(recipe, device, base=checkpoint.store.path, cache_dir=cache_dir).encoder
    cut = int(run.config["cut"])
    drop_trunk(encoder, cut)
    return lambda x: view_embedding(encoder, x, cut, recipe.precision)


def _with(kept: Mapping[str, str], store: Store, frames: Sequence[str]) -> Iterator[FrameCells]:
    """Yield the frames that hold cells of the sample, with these alone."""
    holding = set(kept.values())
    for frame in frame_cells(store, [name for name in frames if name in holding]):
        yield replace(frame, cells=[cell for cell in frame.cells if cell.cell in kept])
