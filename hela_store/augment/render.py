"""The making of augmented views: the warped frame, and its light."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import photometry
from .warp import Warp, sample_images


def render(
    frame: npt.NDArray[Any],
    warps: Sequence[Warp],
    limits: tuple[float, float],
    black: float,
) -> npt.NDArray[np.float32]:
    """Make augmented views of one size of a frame, light included.

    Parameters
    ----------
    frame : (row, col), counts as acquired
    warps : of this frame
    limits : (float, float)
        Normalisation limits of the frame, counts.
    black : float
        Black level, counts.

    Returns
    -------
    float32, (B, H, W), counts
    """
    counts = sample_images(frame, warps)
    return photometry.apply_light(counts, [warp.variant for warp in warps], *limits, black).numpy()
