"""A prompt as plain data, and the rectangle it spans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray, FloatArray
from hela_store.errors import PromptError
from hela_store.images.rle import bbox


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Prompt of one cell.

    Attributes
    ----------
    kind : str
        One of :data:`hela_store.prompts.kinds.PROMPT_KINDS`.
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


def prompt_rectangle(prompt: Prompt) -> FloatArray:
    """Return what a prompt spans: its box, else its mask, else its points. The scoring tile follows from this.

    Of points only those in the cell count; a single one is a rectangle without extent, at the centre of its pixel.

    Returns
    -------
    float64, (4,), ``(x0, y0, x1, y1)`` px, frame

    Raises
    ------
    PromptError
        There is nothing in the prompt.
    """
    if prompt.box is not None:
        return np.asarray(prompt.box, float)
    if prompt.mask is not None:
        return np.asarray(bbox(prompt.mask, prompt.mask_origin), float)
    if prompt.points is None or not len(prompt.points):
        raise PromptError(f"a {prompt.kind!r} prompt without box, mask or points; give one of them")
    points = np.asarray(prompt.points, float)
    if prompt.point_labels is not None and (prompt.point_labels == 1).any():
        points = points[prompt.point_labels == 1]
    # a pixel's sides, in which boxes count, lie 0.5 px off its centre
    return np.concatenate([points.min(axis=0), points.max(axis=0)]) + 0.5
