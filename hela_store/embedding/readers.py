"""Read and augment views ahead of the encoder: in a thread, or in processes of their own, with the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.executors import processes
from hela_store.recipe.recipe import Recipe
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

from .batches import Frames

Warped = list[tuple[ViewRecord, tuple[LabelArray, BoolArray]]]
"""Variants with their labels and valid pixels."""
Read = tuple[npt.NDArray[np.float32], Warped]
"""Views of a group, and the labels of those that were asked for."""
Reader = Callable[[list[ViewRecord], list[ViewRecord]], Future[Read]]
"""Given the views of a group, and those whose labels are wanted."""


@contextmanager
def readers(store: Store, frames: Frames, count: int) -> Iterator[Reader]:
    """Start a thread that reads from ``frames``, or ``count`` processes that compute with as many threads as this one.

    The number of threads decides the last bits of a mean, and so of a variant's contrast.
    """
    if count == 0:
        with ThreadPoolExecutor(1) as pool:
            yield lambda group, varied: pool.submit(_read, frames, group, varied)
        return
    known = store.path, store.recipe, torch.get_num_threads()
    with processes(count) as executor:
        yield lambda group, varied: executor.submit(_read_there, *known, group, varied)


def _read(frames: Frames, group: list[ViewRecord], varied: list[ViewRecord]) -> Read:
    return frames.stack(group), [(view, frames.truth(view)) for view in varied]


def _read_there(path: Path, recipe: Recipe, threads: int, group: list[ViewRecord], varied: list[ViewRecord]) -> Read:
    return _read(_frames(path, recipe, threads), group, varied)


@lru_cache(maxsize=1)
def _frames(path: Path, recipe: Recipe, threads: int) -> Frames:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked ends this one
    torch.set_num_threads(threads)
    return Frames(Store(path, recipe))
