"""One image of a data set as acquired, and the interface of whatever reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from hela_store.base.aliases import BoolArray, LabelArray


def frame_digest(image: np.ndarray) -> str:
    """Return the sha256, as hex, of an image: dtype, shape, and pixels in little-endian row order."""
    little = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    total = hashlib.sha256(f"{image.dtype.name}:{'x'.join(map(str, image.shape))}:".encode())
    total.update(little.data)
    return total.hexdigest()


SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of a data set, as acquired.

    Attributes
    ----------
    sequence : str
        Name of its sequence, e.g. ``"01"``.
    name : str
        Name within the sequence, e.g. ``"t012"``; ``id`` is ``"01/t012"``.
    time : int
        Position in the sequence (for stills: running number).
    image : uint8, uint16 or float32, (row, col)
    label : int32, (row, col), or None
        0 is background, every other value one cell; None where the frame has no labels.
    valid : bool, (row, col)
        False where labels say nothing (outside the field of interest).
    label_origin : str
        ``"ST"``, ``"GT"``, ``"GT+ST"``, ``"masks"`` or ``"synthetic"``; ``""`` without labels.
    partial : bool
        True where only some of the cells are labelled (gold truth).
    pixel_size_um : float or None
        Edge length of a pixel in micrometres, where known.
    """

    sequence: str
    name: str
    time: int
    image: np.ndarray
    label: LabelArray | None
    valid: BoolArray
    label_origin: str = ""
    partial: bool = False
    pixel_size_um: float | None = None

    @property
    def id(self) -> str:
        """``"<sequence>/<name>"``."""
        return f"{self.sequence}/{self.name}"


class Reader(Protocol):
    """A data set: call it and it yields its frames, sequence by sequence, in time order."""

    def __call__(self) -> Iterator[Frame]:
        """Yield frames one at a time; only one is in memory."""
        ...
