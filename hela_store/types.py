"""The words of this package as plain data: no logic, no imports of ours.

Shape suffixes used in all modules: B batch, N prompts, C channels, H rows, W columns.
Coordinates are ``(x, y)`` in px with pixel centres at integers; boxes are ``(x0, y0, x1, y1)`` with x1, y1 exclusive,
so a box of one pixel is one wide and ``x1 - x0`` is a width. "frame" coordinates count px of the frame as acquired,
"view" coordinates count px of the tile as acquired (before the resize to the encoder's input).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.integer]

PromptKind = Literal[
    "box", "box-exact", "point", "point-centre", "point-clicks", "mask", "mask-perfect", "mask-previous", "box+mask",
    "point+mask",
]  # fmt: skip
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
HEADLINE_PROMPTS: tuple[PromptKind, ...] = ("box", "box-exact", "point", "mask")

MIXED_PROMPTS: tuple[PromptKind, ...] = ("box", "point", "mask", "box+mask", "point+mask")
TRAINING_PROMPTS = (*MIXED_PROMPTS, "all")
"""What a decoder is tuned for; ``"all"``: one for all of them."""
ROBUSTNESS_PROMPTS = (
    *("box@0", "box@0.05", "box@0.1", "box@0.15", "box@0.2", "box@0.25", "box@0.3"),
    *("point@0", "point@0.25", "point@0.5", "point@0.75", "point@1"),
    *("mask@0.45", "mask@0.55", "mask@0.65", "mask@0.75", "mask@0.85"),
)
"""Curves: box jitter, click from the edge (0) to the innermost pixel (1), the mask prompt's own IoU."""

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


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is given for one cell.

    Attributes
    ----------
    kind : str
        One of :data:`PROMPT_KINDS`.
    box : (4,) float, ``(x0, y0, x1, y1)`` px, frame, or None
    points : (N, 2) float, ``(x, y)`` px, frame, or None
    point_labels : (N,) int, 1 cell, 0 background, or None
    mask : bool, (row, col), or None
        A crop of the frame with its upper left corner at ``mask_origin``.
    mask_origin : (int, int)
        ``(x, y)`` px, frame, of the mask's first pixel.
    """

    kind: str
    box: FloatArray | None = None
    points: FloatArray | None = None
    point_labels: npt.NDArray[np.integer] | None = None
    mask: BoolArray | None = None
    mask_origin: tuple[int, int] = (0, 0)
