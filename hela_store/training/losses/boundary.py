"""Losses on the distance to the true boundary.

Distances run between pixel centres and edges at the resolution of the truth, and are divided by the cell's diameter d
(of the disc of its area), so that small and large cells weigh the same. Shapes as in
:mod:`hela_store.training.losses.region`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hela_store.metrics.boundaries import signed_distance

from .region import cell_area


def distance_maps(masks_BHW: Tensor) -> Tensor:
    """Return signed distances to the edge of each mask, px, positive inside, float, (B, H, W); 0 for an empty mask."""
    found = [signed_distance(mask) if mask.any() else np.zeros(mask.shape) for mask in masks_BHW.bool().cpu().numpy()]
    return torch.from_numpy(np.stack(found)).to(masks_BHW)


def diameter(target: Tensor) -> Tensor:
    """Return ``2 sqrt(area / pi)`` of each cell, px, (B, M)."""
    return 2 * (cell_area(target) / math.pi).sqrt()


def boundary_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``sum phi p / (d |G|)``, (B, M) (Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL
    2019).

    ``phi`` is the signed distance to the boundary of the truth G, negative inside, and p the probability. The paper
    has the plain sum; here it is divided by diameter and area. It has no lower bound that all cells share.
    """  # noqa: D205
    phi = -distance_maps(target[:, 0])[:, None]
    return (phi * fine.sigmoid()).sum((-2, -1)) / (diameter(target) * cell_area(target))


def normalised_boundary_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``1 - sum (phi (1 - (t + p)))^2 / sum phi^2``, (B, M), 0 to 1.

    The weighted normalised boundary loss, later called generalised surface loss (Celaya, Riviere & Fuentes, arXiv
    2302.03868, 2023). ``1 - (t + p)`` is -1 or 1 where prediction and truth agree and 0 where p is wrong for sure. The
    paper weights classes; cell and background have the same terms, so the weights cancel. Distances beyond one diameter
    count as one, or the window's far corners would decide.
    """
    far = diameter(target)[..., None, None]
    phi = distance_maps(target[:, 0])[:, None].abs().minimum(far)
    agreement = ((phi * (1 - (target + fine.sigmoid()))) ** 2).sum((-2, -1))
    return 1 - agreement / (phi**2).expand_as(target).sum((-2, -1))
