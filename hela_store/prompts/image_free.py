"""Answer prompts without looking at the image, to show how much a prompt alone is worth.

Every table shows them beside the model's scores, because an ellipse in the true box already has IoU 0.83 on round
nuclei. Pixel ``i`` covers ``[i, i + 1)`` of a box's axis and has its centre at ``i + 0.5`` there, so the box of one
pixel is full; a point, in contrast, is given with pixel centres at integers.
"""

from __future__ import annotations

import math

import numpy as np

from hela_store.base.aliases import BoolArray, FloatArray
from hela_store.errors import PromptError
from hela_store.metrics.overlap import Overlap, overlap

from .prompt import Prompt


def ellipse_in_box(box: FloatArray, frame_shape: tuple[int, int] | None = None) -> tuple[BoolArray, tuple[int, int]]:
    """Draw the ellipse inscribed in a box.

    Parameters
    ----------
    box : (4,) float, ``(x0, y0, x1, y1)`` px, frame
    frame_shape : (int, int), optional
        ``(rows, cols)``; what lies beyond is dropped.

    Returns
    -------
    mask : bool, (row, col)
        At least one pixel, the one nearest to the box's centre.
    origin : (int, int)
        ``(x, y)`` px, frame.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    # 0.5: from edges that count pixel sides to centres that count pixels
    centre = ((x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5)
    return _ellipse(centre, ((x1 - x0) / 2, (y1 - y0) / 2), frame_shape)


def disc_at_point(
    point: FloatArray, radius: float, frame_shape: tuple[int, int] | None = None
) -> tuple[BoolArray, tuple[int, int]]:
    """Draw a disc of ``radius`` px at ``point``, ``(x, y)`` px, frame; returns as :func:`ellipse_in_box`."""
    return _ellipse((float(point[0]), float(point[1])), (radius, radius), frame_shape)


def ellipse_of_mask(
    mask: BoolArray, origin: tuple[int, int], radius: float, frame_shape: tuple[int, int] | None = None
) -> tuple[BoolArray, tuple[int, int]]:
    """Draw the ellipse of a mask's centre and moments, its size shrunk halfway towards that of the training cells.

    The outline of a degraded mask is noise, and so is part of its size. The radius is the geometric mean of the mask's
    and ``radius``: on training frames of Fluo-N2DL-HeLa/01 this was better than either of the two alone.

    Parameters
    ----------
    mask : ndarray of bool, shape (row, col)
        With at least one pixel.
    origin : tuple of int
        ``(x, y)`` px, frame, of its first pixel.
    radius : float
        Median equivalent radius of training cells, px.
    frame_shape : tuple of int, optional
        ``(rows, cols)``; what lies beyond is dropped.

    Returns
    -------
    tuple
        As :func:`ellipse_in_box`.
    """
    rows, columns = np.nonzero(mask)
    points = np.stack([columns + float(origin[0]), rows + float(origin[1])])
    centre = points.mean(1)
    # 1/12: the variance of a pixel, which has an extent
    moments = np.cov(points, bias=True) + np.eye(2) / 12
    # a filled ellipse has x' M^-1 x = 4 on its edge, so its radius is 2 det(M)^(1/4)
    shape = moments * (radius / (2 * np.linalg.det(moments) ** 0.25))
    reach = 2 * np.sqrt(np.diag(shape))
    first, last = np.ceil(centre - reach).astype(int), np.floor(centre + reach).astype(int)
    if frame_shape is not None:
        first, last = np.maximum(first, 0), np.minimum(last, np.array(frame_shape[::-1]) - 1)
    if (last < first).any():
        return _ellipse((float(centre[0]), float(centre[1])), (0.0, 0.0), frame_shape)
    y, x = np.mgrid[first[1] : last[1] + 1, first[0] : last[0] + 1]
    apart = np.stack([x - centre[0], y - centre[1]])
    distance = np.einsum("iyx,ij,jyx->yx", apart, np.linalg.inv(shape), apart)
    found: BoolArray = distance <= 4
    if not found.any():
        found.flat[int(np.argmin(distance))] = True
    return found, (int(first[0]), int(first[1]))


def _ellipse(
    centre: tuple[float, float], radii: tuple[float, float], frame_shape: tuple[int, int] | None
) -> tuple[BoolArray, tuple[int, int]]:
    limits = (math.inf, math.inf) if frame_shape is None else (frame_shape[1], frame_shape[0])
    axes, origin = [], []
    for middle, radius, limit in zip(centre, radii, limits, strict=True):
        first, last = math.ceil(middle - radius), math.floor(middle + radius)
        if frame_shape is not None:
            first, last = max(first, 0), min(last, int(limit) - 1)
        if last < first:
            nearest = round(middle)
            first = last = nearest if frame_shape is None else min(max(nearest, 0), int(limit) - 1)
        axes.append(((np.arange(first, last + 1) - middle) / max(radius, 1e-9)) ** 2)
        origin.append(first)
    distance = axes[1][:, None] + axes[0][None, :]
    mask = distance <= 1.0
    if not mask.any():
        mask.flat[int(np.argmin(distance))] = True
    return mask, (origin[0], origin[1])


def image_free_mask(
    prompt: Prompt, median_radius: float, frame_shape: tuple[int, int] | None = None
) -> tuple[BoolArray, tuple[int, int]]:
    """Answer a prompt without the image: the mask itself, else the ellipse in the box, else a disc at the first point.

    Parameters
    ----------
    prompt : Prompt
        Its first point with label 1 counts.
    median_radius : float
        Median equivalent radius of training cells, px.
    frame_shape : (int, int), optional
        ``(rows, cols)``; what lies beyond is dropped.

    Returns
    -------
    mask : bool, (row, col)
    origin : (int, int)
        ``(x, y)`` px, frame.

    Raises
    ------
    PromptError
        The prompt has neither mask, box nor a point in the cell.
    """
    if prompt.mask is not None:
        return prompt.mask, prompt.mask_origin
    if prompt.box is not None:
        return ellipse_in_box(prompt.box, frame_shape)
    if prompt.points is not None and len(prompt.points):
        labels = np.ones(len(prompt.points)) if prompt.point_labels is None else prompt.point_labels
        inside = np.flatnonzero(labels == 1)
        if len(inside):
            return disc_at_point(prompt.points[inside[0]], median_radius, frame_shape)
    raise PromptError(f"a {prompt.kind!r} prompt without mask, box or a point in the cell; give one of them")


def ellipse_score(
    prompt: Prompt,
    truth: BoolArray,
    origin: tuple[int, int],
    median_radius: float,
    frame_shape: tuple[int, int] | None = None,
) -> Overlap | None:
    """Score the ellipse of a mask prompt as :func:`image_free_score`; None where the prompt has no mask."""
    if prompt.mask is None or not prompt.mask.any():
        return None
    mask, mask_origin = ellipse_of_mask(prompt.mask, prompt.mask_origin, median_radius, frame_shape)
    return overlap(mask, truth, mask_origin, origin)


def image_free_score(
    prompt: Prompt,
    truth: BoolArray,
    origin: tuple[int, int],
    median_radius: float,
    frame_shape: tuple[int, int] | None = None,
) -> Overlap:
    """Score the image-free answer to a prompt.

    Parameters
    ----------
    prompt, median_radius, frame_shape
        As in :func:`image_free_mask`.
    truth : bool, (row, col)
        Crop that holds the whole cell.
    origin : (int, int)
        ``(x, y)`` px, frame, of the truth's first pixel.

    Returns
    -------
    Overlap
        The pixels that answer and truth share; its ``iou`` and ``dice`` are the scores.

    Raises
    ------
    PromptError
        The prompt has neither mask, box nor a point in the cell.
    """
    mask, mask_origin = image_free_mask(prompt, median_radius, frame_shape)
    return overlap(mask, truth, mask_origin, origin)
