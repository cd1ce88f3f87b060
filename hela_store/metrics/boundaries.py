"""Say how far the boundary of a mask is from the truth's, in px of the frame.

A boundary pixel belongs to the mask and has one of its four neighbours outside of it; beyond the crop nothing belongs
to the mask. Distances run between the centres of boundary pixels. These are MONAI's rules
(``get_mask_edges`` without subvoxels, ``compute_hausdorff_distance``, ``compute_surface_dice``), and so are the
numbers. Two things differ: empty masks, which :mod:`hela_store.metrics.cell` scores, and the border of the frame.
Where the frame ends, the cell goes on: no pixel is a boundary because of it. Both masks end there by necessity, and
counted as boundaries these pixels would agree whatever the prediction does elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from hela_store.base.aliases import BoolArray
from hela_store.images.rle import bbox

BAND = 0.08
"""Width of the band of :func:`boundary_iou`, in cell diameters: 2 px on a HeLa nucleus of 24.6 px."""

SMALL = 100_000
"""Pairs of boundary pixels up to which all distances at once are faster than a tree."""

Distances = npt.NDArray[np.float64]
Sides = tuple[bool, bool, bool, bool]
"""Which sides of a crop lie on the border of the frame: left, top, right, bottom."""
INSIDE: Sides = (False, False, False, False)
"""No side does."""


def edge(mask: BoolArray, border: Sides = INSIDE) -> BoolArray:
    """Return the boundary pixels of a mask: bool, (row, col)."""
    wide = _beyond(mask, 1, border)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def _beyond(mask: BoolArray, width: int, border: Sides) -> BoolArray:
    """Return a mask with ``width`` more pixels on each side: empty, but as the last ones where the frame ends."""
    # np.pad of a mask of 30 px takes longer than both lines
    wide = np.zeros((mask.shape[0] + 2 * width, mask.shape[1] + 2 * width), np.bool_)
    wide[width:-width, width:-width] = mask
    left, top, right, bottom = border
    if left:
        wide[:, :width] = wide[:, width : width + 1]
    if right:
        wide[:, -width:] = wide[:, -width - 1 : -width]
    if top:
        wide[:width] = wide[width]
    if bottom:
        wide[-width:] = wide[-width - 1]
    return wide


def surface_distances(a: BoolArray, b: BoolArray, border: Sides = INSIDE) -> tuple[Distances, Distances]:
    """Return the distance of each boundary pixel of one mask to the nearest of the other.

    Parameters
    ----------
    a, b : bool, (row, col), of the same shape
        Neither is empty.
    border : sides that lie on the border of the frame
        Pixels there are no boundary, unless a mask would then have none at all.

    Returns
    -------
    from_a, from_b : float64, (number of boundary pixels,), px
    """
    points_a, points_b = np.argwhere(edge(a, border)), np.argwhere(edge(b, border))
    if not (len(points_a) and len(points_b)):
        points_a, points_b = np.argwhere(edge(a)), np.argwhere(edge(b))
    if len(points_a) * len(points_b) <= SMALL:
        apart = cdist(points_a, points_b)
        return apart.min(1), apart.min(0)
    from_a = KDTree(points_b, leafsize=32).query(points_a)[0]
    from_b = KDTree(points_a, leafsize=32).query(points_b)[0]
    return np.asarray(from_a, float), np.asarray(from_b, float)


def hausdorff(distances: tuple[Distances, Distances], share: float = 0.95) -> float:
    """Return the larger of the two directed quantiles of :func:`surface_distances`, px; linear between two values."""
    return max(_quantile(part, share) for part in distances)


def _quantile(values: Distances, share: float) -> float:
    # np.quantile of a hundred values takes longer than everything else here
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    part = np.partition(values, (low, high))
    return float(part[low] + (place - low) * (part[high] - part[low]))


def surface_dice(distances: tuple[Distances, Distances], tolerance: float) -> float:
    """Return the share of both boundaries that is within ``tolerance`` px of the other (NSD, Nikolov et al. 2018)."""
    close = sum(int(np.count_nonzero(part <= tolerance)) for part in distances)
    return close / sum(map(len, distances))


def band_width(diameter: float) -> int:
    """Return the width of the boundary band of a cell of that diameter, both in px; at least 1."""
    return max(1, round(BAND * diameter))


def boundary_iou(a: BoolArray, b: BoolArray, width: int, border: Sides = INSIDE) -> float:
    """Return the IoU of the bands of ``width`` px along the inside of two boundaries; 0 if both masks are empty.

    Cheng et al., "Boundary IoU", CVPR 2021: the band is what erosion by a square of 2 width + 1 px takes away. Their
    width is 2 % of the image's diagonal, more than a nucleus; ours follows the cell (:func:`band_width`).

    Parameters
    ----------
    a, b : bool, (row, col), of the same shape
    width : int, px
    border : sides that lie on the border of the frame; no band runs along these
    """
    inner = (slice(width, -width), slice(width, -width))
    band_a, band_b = (mask & ~_erode(_beyond(mask, width, border), width)[inner] for mask in (a, b))
    union = int(np.count_nonzero(band_a | band_b))
    return int(np.count_nonzero(band_a & band_b)) / union if union else 0.0


def _erode(mask: BoolArray, width: int) -> BoolArray:
    """Erode by a square, with sums instead of passes, so that wide bands cost no more than narrow ones."""
    side = 2 * width + 1
    sums = np.zeros((mask.shape[0] + side, mask.shape[1] + side), np.int32)
    sums[width + 1 : width + 1 + mask.shape[0], width + 1 : width + 1 + mask.shape[1]] = mask
    np.cumsum(sums, axis=0, out=sums)
    np.cumsum(sums, axis=1, out=sums)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    full: BoolArray = inside == side * side
    return full


def signed_distance(mask: BoolArray) -> npt.NDArray[np.float32]:
    """Return the distance to the edge of a mask: float32, (row, col), px, positive inside.

    Without a mask everything is far away from it: minus the sum of the sides.
    """
    if not mask.any():
        return np.full(mask.shape, -float(sum(mask.shape)), np.float32)
    if mask.all():
        # without a pixel outside there is no distance: let the background begin just beyond the crop
        return signed_distance(np.pad(mask, 1))[1:-1, 1:-1]
    signed = 0.5 - ndimage.distance_transform_edt(~mask)
    x0, y0, x1, y1 = bbox(mask)
    part = slice(max(y0 - 1, 0), y1 + 1), slice(max(x0 - 1, 0), x1 + 1)
    inside = ndimage.distance_transform_edt(mask[part]) - 0.5
    signed[part] = np.where(mask[part], inside, signed[part])
    result: npt.NDArray[np.float32] = signed.astype(np.float32)
    return result
