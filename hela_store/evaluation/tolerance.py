"""Say how far two truths of one nucleus lie apart: the tolerance below which a boundary score tells nothing.

The normalised surface Dice of Nikolov et al. (2018) takes its tolerance from how far experts disagree. Here it is the
disagreement of the store's labels with other labels of the same nuclei.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hela_store.base.aliases import LabelArray
from hela_store.images.rle import bbox
from hela_store.metrics.boundaries import Distances, surface_dice, surface_distances


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Describe how far the boundaries of two truths are apart, over nuclei that both have.

    Attributes
    ----------
    nuclei : int
    median, p95 : float
        Distance of a boundary pixel to the other boundary, in px, over the pixels of all nuclei.
    nsd1, nsd2 : float
        Mean NSD of one truth against the other, at 1 and 2 px: what no answer can be expected to exceed.
    """

    nuclei: int
    median: float
    p95: float
    nsd1: float
    nsd2: float

    def __str__(self) -> str:
        """Return a sentence."""
        return (
            f"tolerance: the boundaries of the two truths are {self.median:.2f} px apart in the median and within "
            f"{self.p95:.2f} px for 95 % ({self.nuclei} nuclei); one against the other has NSD {self.nsd1:.4f} at 1 px "
            f"and {self.nsd2:.4f} at 2 px"
        )


def truths_apart(truth: LabelArray, nucleus: int, stored: LabelArray, cell: int) -> tuple[Distances, Distances]:
    """Return the distances of the boundary pixels of a nucleus in two label images of one frame, px.

    Parameters
    ----------
    truth, stored : ndarray of int, shape (row, col)
    nucleus, cell : int
        Its label in either.
    """
    one, other = truth == nucleus, stored == cell
    x0, y0, x1, y1 = bbox(one | other)
    border = (x0 == 0, y0 == 0, x1 == truth.shape[1], y1 == truth.shape[0])
    return surface_distances(one[y0:y1, x0:x1], other[y0:y1, x0:x1], border)


def tolerance(apart: Sequence[tuple[Distances, Distances]]) -> Tolerance:
    """Return the tolerance that the distances of at least one nucleus show."""
    pixels = np.concatenate([part for pair in apart for part in pair])
    nsd1, nsd2 = (float(np.mean([surface_dice(pair, limit) for pair in apart])) for limit in (1.0, 2.0))
    median, p95 = np.percentile(pixels, (50, 95))
    return Tolerance(nuclei=len(apart), median=float(median), p95=float(p95), nsd1=nsd1, nsd2=nsd2)
