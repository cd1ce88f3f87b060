"""Encoded tiles of a large frame, kept until it is done so that an interrupted segmentation goes on within it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.base.files import write_atomic
from hela_store.base.names import refuse_link
from hela_store.base.sums import array_sum

SHAPE = (256, 64, 64)
SUFFIX = ".tile"
"""Ending of a tile's file: its embedding, float32, little-endian, and then its sum in 32 letters."""


@dataclass(frozen=True)
class KeptTiles:
    """A folder with the embeddings of one frame's tiles, each named by the pixels it was made of.

    Attributes
    ----------
    folder : Path
        Made by the first tile.
    """

    folder: Path

    def encode(self, make: Callable[[npt.NDArray[np.float32]], Tensor], tile: npt.NDArray[np.float32]) -> Tensor:
        """Return the embedding of a tile, float32, (256, 64, 64): the one that is kept, else what ``make`` gives.

        Parameters
        ----------
        make : encodes a tile
        tile : float32, (row, col), 0..255

        Raises
        ------
        StoreError
            No space, no permission, or a symbolic link in its place.
        """
        refuse_link(self.folder)
        name = array_sum(str(tile.shape), tile)
        path = self.folder / f"{name}{SUFFIX}"
        kept = _read(path, name)
        if kept is not None:
            return kept
        made = make(tile)
        values = made.numpy().astype("<f4", copy=False)
        write_atomic(path, values.tobytes() + array_sum(name, values).encode())
        return made

    def clear(self) -> None:
        """Remove them; what cannot be removed is of no consequence."""
        refuse_link(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path, name: str) -> Tensor | None:
    """Return a kept embedding; None where there is none, or where it is not what was written."""
    refuse_link(path)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    values, total = np.frombuffer(data[:-32], np.uint8), data[-32:]
    if len(values) != 4 * int(np.prod(SHAPE)):
        return None
    embedding = values.view("<f4").reshape(SHAPE)
    if array_sum(name, embedding).encode() != total:
        return None
    return torch.from_numpy(embedding.astype(np.float32))
