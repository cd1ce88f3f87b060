"""Losses of regions: cross-entropy, focal and Dice.

Shapes: B prompts, M masks, H rows, W columns; logits above 0 are cell, truth is 0 or 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hela_store.sam.resize import resize


def match_resolution(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Bring logits (B, M, h, w) bilinearly to the truth's (B, H, W); returns both as (B, M, H, W) float.

    A 24-px nucleus is 6 low-resolution logits wide in a whole frame: its boundary only exists at the finer resolution.
    """
    fine = resize(logits, (truth.shape[-2], truth.shape[-1]))
    return fine, truth[:, None].expand_as(fine).to(fine.dtype)


def dice_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``1 - 2 |p t| / (|p| + |t|)``, smoothed by 1, (B, M) (Milletari et al., V-Net, 2016, eq. 3)."""
    probability = fine.sigmoid()
    shared = (probability * target).sum((-2, -1))
    return 1 - (2 * shared + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def cell_area(target: Tensor) -> Tensor:
    """Return the cell's pixels, at least 16, (B, M): what sums over pixels are divided by.

    Not the mean over pixels: in a window, most are background that nobody doubts, and how many depends on the window.
    """
    return target.sum((-2, -1)).clamp(min=16)


def cross_entropy(fine: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy summed over pixels and divided by four times the cell's area, (B, M)."""
    each = binary_cross_entropy_with_logits(fine, target, reduction="none").sum((-2, -1))
    return each / (4 * cell_area(target))


def focal_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``4 (1 - p_t)^2 CE``, normalised as :func:`cross_entropy`, (B, M).

    ``p_t`` is the probability of what is true; exponent 2 (Lin et al., "Focal Loss for Dense Object Detection", 2017,
    eq. 4). The factor makes it the cross-entropy at p = 1/2.
    """
    each = binary_cross_entropy_with_logits(fine, target, reduction="none")
    return (4 * (1 - torch.exp(-each)) ** 2 * each).sum((-2, -1)) / (4 * cell_area(target))
