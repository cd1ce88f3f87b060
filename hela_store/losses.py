"""Losses on decoder logits. Every loss is one number per mask, so that callers weight and choose.

Shapes: B prompts, M masks, H rows, W columns; logits above 0 are cell, truth is 0 or 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate


def match_resolution(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Bring logits (B, M, h, w) bilinearly to the truth's (B, H, W); returns both as (B, M, H, W) float.

    A 24-px nucleus is 6 low-resolution logits wide in a whole frame: its boundary only exists at the finer resolution.
    """
    fine = interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    return fine, truth[:, None].expand_as(fine).to(fine.dtype)


def dice_loss(fine: Tensor, target: Tensor) -> Tensor:
    """Return ``1 - 2 |p t| / (|p| + |t|)``, smoothed by 1, (B, M) (Milletari et al., V-Net, 2016, eq. 3)."""
    probability = fine.sigmoid()
    shared = (probability * target).sum((-2, -1))
    return 1 - (2 * shared + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def cross_entropy(fine: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy summed over pixels and divided by four times the cell's area, (B, M).

    Not the mean over pixels: in a window, most are background that nobody doubts, and how many depends on the window.
    """
    each = binary_cross_entropy_with_logits(fine, target, reduction="none").sum((-2, -1))
    return each / (4 * target.sum((-2, -1)).clamp(min=16))


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return cross-entropy + Dice loss, (B, M), of logits (B, M, h, w) at the resolution of truth (B, H, W)."""
    fine, target = match_resolution(logits, truth)
    return cross_entropy(fine, target) + dice_loss(fine, target)


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of thresholded logits with the truth, (B, M), without gradient; arguments as :func:`mask_loss`."""
    with torch.no_grad():
        fine, target = match_resolution(logits, truth)
        mask, inside = fine > 0, target > 0
        return (mask & inside).sum((-2, -1)) / (mask | inside).sum((-2, -1)).clamp(min=1)


def decoder_loss(logits: Tensor, iou: Tensor, truth: Tensor, *, multimask: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of one decoder pass, (B,), and the IoU of its single mask, (B,).

    The single mask always learns; for a lone point the best of the three others does too, as only then several
    readings are right (Kirillov et al. 2023, section 3, "Resolving ambiguity"). Predicted IoU is trained along.

    Parameters
    ----------
    logits : (B, 4, h, w), the single mask first
    iou : (B, 4), predicted
    truth : 0 or 1, (B, H, W)
    multimask : whether the prompts are lone points
    """
    masks = slice(0, 4) if multimask else slice(0, 1)
    each, real = mask_loss(logits[:, masks], truth), true_iou(logits[:, masks], truth)
    loss = each[:, 0] + each[:, 1:].min(1).values if multimask else each[:, 0]
    return loss + ((iou[:, masks] - real) ** 2).mean(1), real[:, 0]
