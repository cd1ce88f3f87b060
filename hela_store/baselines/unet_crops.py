"""Batches that the U-Net learns from: crops of training frames, each a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.rng import generator
from hela_store.images import normalise
from hela_store.recipe.recipe import NormaliseRecipe
from hela_store.store.labelled import opener
from hela_store.store.store import Store

from .unet_labels import IGNORED, targets

CROP = 256
"""Side of a crop, px of the network."""
DIAMETER = 40.0
"""Frames are reduced until their median training cell is no larger than this, px of the network: its field of view."""
GAMMA = 0.3
GAIN = 0.2
NOISE = 0.03
"""Bounds of log2(gamma), of the gain about 1, and of the noise's standard deviation."""

Batch = tuple[Tensor, Tensor]
"""Images, float32 (batch, 1, row, col), and classes, int64 (batch, row, col)."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A frame and its shape ``(rows, cols)`` px."""

    frame: str
    shape: tuple[int, int]


class Crops(Dataset[Batch]):
    """Batches ``first .. first + count - 1`` of an endless series.

    Parameters
    ----------
    frames : that train
    shrink : px of the network by px of a frame, at most 1
    size : crops a batch
    """

    def __init__(
        self, store: Store, frames: list[str], *, shrink: float, size: int, seed: int, first: int, count: int
    ) -> None:
        self.open, self.shrink, self.size, self.seed = opener(store), shrink, size, seed
        self.first, self.count = first, count
        wanted = set(frames)
        self.places = [
            Place(frame=record.frame, shape=record.shape)
            for record in store.frame_records().values()
            if record.frame in wanted
        ]
        self._store: Store | None = None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}

    def __getitem__(self, index: int) -> Batch:
        """Return batch ``first + index``."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = generator("unet", self.seed, self.first + index)
        parts = [self._crop(rng) for _ in range(self.size)]
        return torch.stack([image for image, _ in parts]), torch.stack([classes for _, classes in parts])

    def _crop(self, rng: np.random.Generator) -> Batch:
        if self._store is None:
            self._store = self.open()
        place = self.places[int(rng.integers(len(self.places)))]
        pixels, frame = self._store.pixels, place.frame
        side = round(CROP / self.shrink)
        y, x = (int(rng.integers(max(length - side, 0) + 1)) for length in place.shape)
        part = np.s_[y : y + side, x : x + side]
        image = shrunk(seen(pixels.image(frame), self._store)[part], self.shrink)
        label = shrunk_labels(pixels.label(frame)[part], image.shape)
        valid = shrunk_labels(pixels.valid(frame)[part], image.shape)
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        image, classes = (_turned(values, turn, flip) for values in (_light(image, rng), targets(label, valid)))
        return torch.from_numpy(_padded(image, 0))[None], torch.from_numpy(_padded(classes, IGNORED))


def seen(image: npt.NDArray[Any], store: Store) -> npt.NDArray[np.float32]:
    """Return a whole frame (counts) as SAM's encoder sees it, but 0..1, float32 (row, col)."""
    recipe: NormaliseRecipe = store.recipe.normalise
    black = store.recipe.dataset.offset
    lo, hi = normalise.limits(image, recipe.method, recipe.low, recipe.high, black)
    return normalise.apply(image, lo, hi, recipe.method) / np.float32(normalise.WHITE)


def shrunk(image: npt.NDArray[np.float32], shrink: float) -> npt.NDArray[np.float32]:
    """Return an image (row, col) at the network's size: the mean of what each pixel covers."""
    if shrink == 1:
        return image
    shape = [max(round(length * shrink), 1) for length in image.shape]
    smaller = torch.nn.functional.interpolate(
        torch.from_numpy(image[None, None]), shape, mode="bilinear", antialias=True, align_corners=False
    )
    return np.asarray(smaller[0, 0].numpy(), np.float32)


def shrunk_labels(label: LabelArray | BoolArray, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return labels, or a map, (row, col), at another shape: the nearest pixel's."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, label.shape, strict=True)
    )
    return label[rows[:, None], columns]


def _light(image: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    gamma, gain, noise = 2 ** rng.uniform(-GAMMA, GAMMA), 1 + rng.uniform(-GAIN, GAIN), rng.uniform(0, NOISE)
    return np.asarray(gain * image**gamma + noise * rng.standard_normal(image.shape), np.float32)


def _turned(values: npt.NDArray[Any], turn: int, flip: bool) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.rot90(values[:, ::-1] if flip else values, turn))


def _padded(values: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    values = values[:CROP, :CROP]
    missing = [(0, CROP - length) for length in values.shape]
    return np.pad(values, missing, constant_values=fill)
