"""Three differentiable stand-ins for the Hausdorff distance.

Karimi & Salcudean, "Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional Neural Networks",
IEEE Transactions on Medical Imaging 39, 2020 (arXiv 1904.10030, 2019), with their exponent of 2. The paper averages
over the image; here sums are divided by the cell's area, and lengths by its diameter d. Its radii (3 to 18) and
number of erosions (10) are for organs; ours for nuclei of about 24 px. Shapes as in
:mod:`hela_store.training.losses.region`; p
is the probability, t the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, relu

from .boundary import diameter, distance_maps
from .region import cell_area

EROSIONS = 6
RADII = (1, 2, 3, 4, 6)
CERTAIN = 0.9
"""Share of a disc that has to lie on one side, from which on it counts (the paper's soft threshold)."""


def hausdorff_distance_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``sum (p - t)^2 (D_p^2 + D_t^2) / (d^2 |t|)``, (B, M).

    ``D`` is the distance to the boundary of the thresholded prediction and of the truth; no gradient runs through it.
    """
    probability = fine.sigmoid()
    of_truth = distance_maps(target[:, 0])[:, None] ** 2
    of_prediction = distance_maps((fine > 0).detach().flatten(0, 1).to(fine)).view_as(fine) ** 2
    each = (probability - target) ** 2 * (of_truth + of_prediction)
    return each.sum((-2, -1)) / (diameter(target) ** 2 * cell_area(target))


def hausdorff_erosion_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``sum_k k^2 sum E_k((p - t)^2) / (d^2 |t|)``, k = 1 .. 6, (B, M).

    ``E`` is a soft erosion: convolution with a cross of five 1/5, then ``max(2 x - 1, 0)``, which is the paper's soft
    threshold at 1/2 stretched back to 1, so that a certain error survives as many erosions as it is wide.
    """
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]).to(fine)[None, None] / 5
    error = ((fine.sigmoid() - target) ** 2).flatten(0, 1)[:, None]
    total = torch.zeros_like(error[:, 0, 0, 0])
    for k in range(1, EROSIONS + 1):
        error = relu(2 * conv2d(error, cross, padding=1) - 1)
        total = total + k**2 * error.sum((-3, -2, -1))
    return total.view(fine.shape[:2]) / (diameter(target) ** 2 * cell_area(target))


def hausdorff_convolution_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``sum_r r^2 sum [(s(1 - t, r) + s(p, r)) p + (s(1 - p, r) + s(t, r)) t] (p - t)^2 / (d^2 |t|)``, (B, M).

    ``s(x, r)`` is near 1 where nearly all of the disc of radius r lies in x: the mean of x over the
    disc, through ``max(x - 0.9, 0) / 0.1``. So a pixel counts with all radii by which it is away from the boundary.
    Beyond the window is background.
    """
    probability = fine.sigmoid()
    error = (probability - target) ** 2
    total = torch.zeros_like(error[..., 0, 0])
    for radius in RADII:
        outside, inside = _surely(1 - target, radius, 1.0), _surely(target, radius, 0.0)
        outside_p, inside_p = _surely(1 - probability, radius, 1.0), _surely(probability, radius, 0.0)
        each = (outside + inside_p) * probability + (outside_p + inside) * target
        total = total + radius**2 * (each * error).sum((-2, -1))
    return total / (diameter(target) ** 2 * cell_area(target))


def _surely(values: Tensor, radius: int, beyond: float) -> Tensor:
    reach = torch.arange(-radius, radius + 1).to(values)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).to(values)
    flat = pad(values.flatten(0, 1)[:, None], [radius] * 4, value=beyond)
    mean = conv2d(flat, (disc / disc.sum())[None, None])
    return relu(mean - CERTAIN).view_as(values) / (1 - CERTAIN)
