"""A frame as a decoder reads it: tiles, each with an embedding, whether encoded here, stored, or given."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.images import normalise
from hela_store.images.geometry import Rect, tile_rectangles
from hela_store.recipe.recipe import Recipe
from hela_store.sam.encoder import encode
from hela_store.sam.modeling import ImageEncoderViT

Encode = Callable[[npt.NDArray[np.float32]], Tensor]
"""From a tile, float32, (row, col), 0..255, to its embedding, float32, (256, 64, 64), on the CPU."""


class Tiled(Protocol):
    """A frame of tiles.

    Attributes
    ----------
    shape : (rows, cols) of the frame, px
    tiles : (x0, y0, width, height) px, frame, each
    """

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def tiles(self) -> Sequence[Rect]: ...  # noqa: D102
    def embedding(self, tile: int) -> Tensor:
        """Return the embedding of a tile by its number, float32, (256, 64, 64), on the CPU."""
        ...


class EncodedFrame:
    """A frame whose tiles are encoded once, each when it is first asked for.

    Embeddings lie in a temporary file, because a large frame has more of them than memory holds.

    Parameters
    ----------
    image : uint8, uint16 or float32, (row, col)
        As acquired.
    recipe : Recipe
        How it is normalised and tiled, and with which precision embeddings are kept.
    encode : what encodes a tile

    Attributes
    ----------
    seen : float32, (row, col), 0..255
        As :func:`hela_store.images.normalise.apply` gives it.
    tiles : (x0, y0, width, height) px, each
    is_blank : bool
        Whether all pixels are the same, so that there is nothing to see.
    """

    def __init__(self, image: npt.NDArray[Any], recipe: Recipe, encode: Encode) -> None:
        how = recipe.normalise
        lo, hi = normalise.limits(image, how.method, how.low, how.high, recipe.dataset.offset)
        self.image = image
        self.shape = (image.shape[0], image.shape[1])
        self.seen = normalise.apply(image, lo, hi, how.method)
        self.tiles = tile_rectangles(self.shape, recipe.views.tile, recipe.views.overlap)
        self.is_blank = not hi > lo
        self._encode = encode
        self._kept = _OnDisk(recipe.arrays.dtype)

    def embedding(self, tile: int) -> Tensor:
        """Return the embedding of a tile by its number, float32, (256, 64, 64), as a store would keep it."""

        def make() -> npt.NDArray[Any]:
            x0, y0, width, height = self.tiles[tile]
            return self._encode(np.ascontiguousarray(self.seen[y0 : y0 + height, x0 : x0 + width])).numpy()

        return torch.from_numpy(self._kept.get(tile, make))


class _OnDisk:
    """Embeddings in a temporary file that goes with it; plain reads, because mapped pages would count as memory."""

    def __init__(self, dtype: str) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- it goes with this object
        weakref.finalize(self, self._file.close)
        self._dtype = np.dtype(dtype)
        self._shape = (256, 64, 64)
        self._there: set[int] = set()
        self._lock = Lock()

    def get(self, number: int, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Return an embedding as float32, made and written where it is not there yet."""
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        with self._lock:
            if number not in self._there:
                os.pwrite(self._file.fileno(), make().astype(self._dtype).tobytes(), number * size)
                self._there.add(number)
        data = os.pread(self._file.fileno(), size, number * size)
        return np.frombuffer(data, self._dtype).reshape(self._shape).astype(np.float32)


def encode_tile(encoder: ImageEncoderViT, precision: str) -> Encode:
    """Return what encodes one tile with an encoder."""

    def run(tile: npt.NDArray[np.float32]) -> Tensor:
        return encode(encoder, tile[None], precision)[0]

    return run


class StoredFrame:
    """A frame whose embeddings are read; what reads them compares each with what was committed.

    Parameters
    ----------
    shape : (rows, cols), px
    tiles : (x0, y0, width, height) px, frame, each
    read : returns the embedding of a tile by its number, float16 or float32, (256, 64, 64)
    """

    def __init__(
        self, shape: tuple[int, int], tiles: Sequence[Rect], read: Callable[[int], npt.NDArray[Any] | Tensor]
    ) -> None:
        self.shape = shape
        self.tiles = tiles
        self._read = read

    def embedding(self, tile: int) -> Tensor:
        """Return the embedding of a tile by its number, float32, (256, 64, 64), on the CPU."""
        return torch.as_tensor(self._read(tile)).float().cpu()


def given_frame(features: Tensor, shape: tuple[int, int]) -> StoredFrame:
    """Return a frame that is seen whole, with an embedding that somebody computed, ([1,] 256, 64, 64)."""
    return StoredFrame(shape, [(0, 0, shape[1], shape[0])], partial(_first, features))


def _first(features: Tensor, tile: int) -> Tensor:
    return features.reshape(features.shape[-3:])
