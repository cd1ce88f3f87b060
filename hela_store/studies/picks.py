"""Choose which cells a person would annotate: at random, frame by frame, the farthest apart, or the most doubtful.

Every pick is an order of the cells of the training block, so that the cells of a small budget are among those of a
larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.detection.frames import scorable_frames
from hela_store.errors import RunError
from hela_store.evaluation.tracks import nuclei
from hela_store.images.rle import encode
from hela_store.metrics.matching import mask_ious, match
from hela_store.segmentation.calibration import shipped_calibration
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.resolve import resolve_prompts
from hela_store.segmentation.stored import segmented_frames
from hela_store.store.store import Store
from hela_store.training.data import training_views
from hela_store.vectors.make import cell_vectors


class Picker:
    """Orders the cells of the training block that can train, by pick and seed.

    Parameters
    ----------
    store : Store
        With the views of its training block embedded.
    progress : callable
        Shown while vectors or doubts are read.
    """

    def __init__(self, store: Store, progress: Progress = silent) -> None:
        self.store, self.progress = store, progress
        views = training_views(store)
        self.frame_of = {cell.cell: view.frame for view in views for cell in view.cells}
        self._views = [frozenset(cell.cell for cell in view.cells) for view in views]
        self.cells = sorted(self.frame_of)

    @cached_property
    def nucleus(self) -> dict[str, str]:
        """Cells by id, each with the first cell of its nucleus, as :func:`hela_store.evaluation.tracks.nuclei`."""
        return nuclei(self.store)

    @cached_property
    def vectors(self) -> npt.NDArray[np.float32]:
        """Vectors of the cells, (cells, 256), in their order."""
        found = cell_vectors(self.store, split="train", progress=self.progress)
        place = {cell: i for i, cell in enumerate(found.cells)}
        return found.vectors[[place[cell] for cell in self.cells]]

    @cached_property
    def doubts(self) -> dict[str, float]:
        """Probability that the zero-shot mask of a cell is wrong, by cell; cells that were not found are left out."""
        return _doubts(self.store, self.progress)

    def order(self, pick: str, seed: int, most: int) -> list[str]:
        """Return the first ``most`` cells in the order in which a pick takes them.

        Raises
        ------
        RunError, StoreError
            The pick needs vectors or a calibration that cannot be read; the message says what to run first.
        """
        orders = {"random": self._random, "frames": self._frames, "doubt": self._doubt}
        return orders[pick](seed)[:most] if pick != "far" else self._far(seed, most)

    def frames(self, cells: Sequence[str]) -> int:
        """Return how many frames a person opens for these cells."""
        return len({self.frame_of[cell] for cell in cells})

    def views(self, cells: Sequence[str]) -> int:
        """Return how many views hold at least one of these cells whole."""
        wanted = frozenset(cells)
        return sum(not held.isdisjoint(wanted) for held in self._views)

    def _random(self, seed: int) -> list[str]:
        return [self.cells[i] for i in generator("budget", seed).permutation(len(self.cells))]

    def _frames(self, seed: int) -> list[str]:
        """Take whole frames in a random order, and the cells of a frame in a random order."""
        names = sorted(set(self.frame_of.values()))
        place = {names[i]: n for n, i in enumerate(generator("budget frames", seed).permutation(len(names)))}
        return sorted(self._random(seed), key=lambda cell: place[self.frame_of[cell]])

    def _far(self, seed: int, most: int) -> list[str]:
        """Take the cell that is farthest from all that were taken (Gonzalez 1985), from a random one on."""
        first = int(generator("budget far", seed).integers(len(self.cells)))
        return [self.cells[i] for i in farthest_first(self.vectors, first, most)]

    def _doubt(self, seed: int) -> list[str]:
        """Take the cells whose zero-shot mask is least probable to be right; cells that were not found come last."""
        return sorted(self._random(seed), key=lambda cell: -self.doubts.get(cell, -1.0))


def farthest_first(vectors: npt.NDArray[np.float32], first: int, most: int) -> list[int]:
    """Return at most so many rows of vectors, (n, d), in farthest-first order from row ``first`` on."""
    order, nearest = [first], np.full(len(vectors), np.inf, np.float32)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    for _ in range(min(most, len(vectors)) - 1):
        last = order[-1]
        apart = squares + squares[last] - 2 * (vectors @ vectors[last])
        nearest = np.minimum(nearest, apart)
        nearest[last] = -np.inf
        order.append(int(nearest.argmax()))
    return order


def _doubts(store: Store, progress: Progress) -> dict[str, float]:
    """Return how improbable it is that the zero-shot mask of a training cell is right, by cell that was found."""
    what = "pick doubt needs a detector and its calibration"
    try:
        prompts = resolve_prompts(store, DetectedConfig(split="train"))
    except RunError as error:
        raise RunError(f"{what}: {error}, and then run `hela-store detect calibrate`") from None
    calibration, _ = shipped_calibration(store, prompts.config)
    if calibration is None:
        raise RunError(f"{what}: detector {prompts.detector.id} has none; run `hela-store detect calibrate` first")
    frames, found = scorable_frames(store, "train"), dict[str, float]()
    for frame in progress(segmented_frames(store, prompts, frames), total=len(frames), what="doubts"):
        truth = frame.truth.frame
        if not frame.cells:
            continue
        masks = tuple(encode(cell.mask, cell.origin, truth.shape) for cell in frame.cells)
        partner = match(mask_ious(masks, truth.label, frame.truth.labels)).partner
        right = calibration.probability([cell.signs for cell in frame.cells])
        found |= {truth.cells[j].cell: float(1 - right[i]) for i, j in enumerate(partner) if j >= 0}
    return found
