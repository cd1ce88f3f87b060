"""From acquired counts to what the encoder sees: two limits a frame, then 0..255. NumPy only, but for CLAHE.

The limits are taken once per original frame and kept in the plan; every tile and variant of the frame uses them.
Percentiles of a tile would depend on what else is in the tile, and would undo a change of brightness exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.errors import DatasetError

WHITE = 255.0
CLAHE_CLIP = 0.01
CLAHE_TILES = 8
"""Regions along each side of the frame (Zuiderveld, "Contrast limited adaptive histogram equalization", 1994)."""


def limits(
    image: npt.NDArray[Any], method: str, low: float = 0.5, high: float = 99.8, offset: float = 0.0
) -> tuple[float, float]:
    """Return which counts become black and white.

    Parameters
    ----------
    image : uint8, uint16 or float32, (row, col)
        A whole frame as acquired.
    method : str
        ``"percentile"``: the ``low``-th and ``high``-th percentile. ``"minmax"`` and ``"clahe"``: the extremes.
    low, high : float
        Percent.
    offset : float
        Black level of the camera, counts: black is never put below it (a frame may have dead pixels at 0).

    Returns
    -------
    (float, float)
        Equal where the frame is constant.

    Raises
    ------
    DatasetError
        The image holds NaN or infinity.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DatasetError("the frame holds NaN or infinity, expected finite counts; replace them before ingest")
    if method == "percentile":
        black, white = (float(v) for v in np.percentile(image, [low, high]))
        if black == white:  # nearly all background: the few pixels that differ are what there is to see
            black, white = float(image.min()), float(image.max())
    else:
        black, white = float(image.min()), float(image.max())
    return (max(black, offset), white) if offset < white else (black, white)


def apply(
    image: npt.NDArray[Any],
    lo: float,
    hi: float,
    method: str = "percentile",
    frame_shape: tuple[int, int] | None = None,
) -> npt.NDArray[np.float32]:
    """Bring a frame to 0..255.

    Parameters
    ----------
    image : uint8, uint16 or float32, (row, col)
        Counts. For ``"clahe"`` the whole frame, because what a region becomes depends on its surroundings; otherwise
        any part of it.
    lo, hi : float
        From :func:`limits`.
    method : str
        As for :func:`limits`.
    frame_shape : (int, int)
        Rows and columns of the frame where ``image`` is an augmented view of it; gives CLAHE its regions.

    Returns
    -------
    float32, (row, col), 0..255
        All zero where ``hi`` is not above ``lo``.
    """
    if not hi > lo:
        return np.zeros(image.shape, np.float32)
    unit = image.astype(np.float32)  # changed in place, as frames may be large
    unit -= np.float32(lo)
    unit /= np.float32(hi - lo)
    np.clip(unit, 0, 1, out=unit)
    if method == "clahe":
        from skimage.exposure import equalize_adapthist

        kernel = [max(1, length // CLAHE_TILES) for length in frame_shape or image.shape]
        unit = equalize_adapthist(unit, kernel_size=kernel, clip_limit=CLAHE_CLIP)
        return (unit * WHITE).astype(np.float32)
    unit *= np.float32(WHITE)
    return unit
