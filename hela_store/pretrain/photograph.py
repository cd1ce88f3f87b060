"""Change a crop into another photograph of the same cells: polarity, relief, focus, light, gamma and noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = 118.0
"""Grey of SAM's padding, which is the mean colour of its training images."""


def photograph(rng: np.random.Generator, image_HW: Tensor, diameter: float, outside_HW: Tensor | None) -> Tensor:
    """Return another photograph of a crop.

    Parameters
    ----------
    image_HW : float32, 0..1
    diameter : of its cells, SAM input px: what blur and relief are measured in
    outside_HW : bool, what lies outside of the frame and becomes grey as SAM's padding is; None leaves it

    Returns
    -------
    float32, (H, W), 0..255
    """
    low, high = rng.uniform(0, 0.06), rng.uniform(0.6, 1.1)
    image = ((image_HW - low) / (high - low)).clamp(0, 1)
    if rng.random() < 0.2:
        image = _smooth(image, diameter * float(rng.uniform(0.005, 0.05)))
    if rng.random() < 0.1:
        image = relief(rng, image, diameter)
    image = image ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.2:
        image = image * (1 + float(rng.uniform(0.1, 0.5)) * _uneven(rng, image))
    if rng.random() < 0.3:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * float(rng.uniform(0, 0.06))
    image = image.clamp(0, 1)
    if rng.random() < 0.15:
        image = 1 - image
    floor, peak = rng.uniform(0, 0.1), rng.uniform(0.7, 1.0)
    image = (floor + image * (peak - floor)) * 255
    return image if outside_HW is None else image.masked_fill(outside_HW, MEAN)


def relief(rng: np.random.Generator, image_HW: Tensor, diameter: float) -> Tensor:
    """Return the derivative of an image along a random direction, grey where it is flat, 0..1.

    As differential interference contrast shows an optical path that the image is taken for.
    """
    smooth = _smooth(image_HW, max(1.0, diameter * float(rng.uniform(0.01, 0.04)))).numpy()
    down, right = np.gradient(smooth)
    angle = rng.uniform(0, 2 * math.pi)
    slope = math.cos(angle) * right + math.sin(angle) * down
    most = max(float(np.quantile(np.abs(slope[::4, ::4]), 0.995)), 1e-4)
    return torch.from_numpy(np.asarray(0.5 + 0.5 * slope / most, np.float32)).clamp(0, 1)


def _smooth(image_HW: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(image_HW.numpy(), min(sigma, 8.0), truncate=2.5))


def _uneven(rng: np.random.Generator, image_HW: Tensor) -> Tensor:
    """Draw a slow change of light over the crop, within -1..1, (H, W)."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 3, 3)).astype(np.float32))
    return interpolate(coarse, image_HW.shape, mode="bilinear", align_corners=True)[0, 0]
