"""Compute the loss of a decoder pass: a mask loss by name, the choice among several masks, and predicted IoU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .boundary import boundary_loss, normalised_boundary_loss
from .hausdorff import hausdorff_convolution_loss, hausdorff_distance_loss, hausdorff_erosion_loss
from .names import REGION
from .region import cross_entropy, dice_loss, focal_loss, match_resolution

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits and truth of one resolution, both (B, M, H, W), to (B, M)."""

EXTRA: dict[str, Loss] = {
    "boundary": boundary_loss,
    "boundary-normalised": normalised_boundary_loss,
    "hausdorff-distance": hausdorff_distance_loss,
    "hausdorff-erosion": hausdorff_erosion_loss,
    "hausdorff-convolution": hausdorff_convolution_loss,
}
"""Added to Dice + cross-entropy with a weight that grows: alone, none of them finds a cell that was missed."""


def ramp(step: int, steps: int, share: float) -> float:
    """Return how much of an extra loss counts at a step: linearly from 0 to 1 over the first ``share`` of all steps."""
    return 1.0 if share == 0 else min(1.0, step / (share * steps))


def mask_loss(logits: Tensor, truth: Tensor, name: str = REGION, weight: float = 1.0) -> Tensor:
    """Return the loss of masks, (B, M), of logits (B, M, h, w) at the resolution of truth (B, H, W).

    Parameters
    ----------
    logits : (B, M, h, w)
    truth : 0 or 1, (B, H, W)
    name : one of :data:`hela_store.training.losses.names.LOSSES`
    weight : of what a loss has beyond Dice + cross-entropy
    """
    fine, target = match_resolution(logits, truth)
    if name == "dice+focal":
        return focal_loss(fine, target) + dice_loss(fine, target)
    loss = cross_entropy(fine, target) + dice_loss(fine, target)
    if name in EXTRA and weight > 0:
        loss = loss + weight * EXTRA[name](fine, target)
    return loss


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of thresholded logits with the truth, (B, M), without gradient; arguments as :func:`mask_loss`."""
    with torch.no_grad():
        fine, target = match_resolution(logits, truth)
        mask, inside = fine > 0, target > 0
        return (mask & inside).sum((-2, -1)) / (mask | inside).sum((-2, -1)).clamp(min=1)


def decoder_loss(
    logits: Tensor,
    iou: Tensor,
    truth: Tensor,
    *,
    multimask: bool,
    name: str = REGION,
    weight: float = 1.0,
    iou_weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one decoder pass, (B,), and the IoU of its single mask, (B,).

    The single mask always learns; for a lone point the best of the three others does too, as only then several
    readings are right (Kirillov et al. 2023, section 3, "Resolving ambiguity"). Predicted IoU is trained along.

    Parameters
    ----------
    logits : (B, 1 or 4, h, w), the single mask first
    iou : (B, 1 or 4), predicted
    truth : 0 or 1, (B, H, W)
    multimask : whether the prompts are lone points
    name, weight : as :func:`mask_loss`
    iou_weight : of the squared error of predicted IoU
    """
    masks = slice(0, 4) if multimask else slice(0, 1)
    each, real = mask_loss(logits[:, masks], truth, name, weight), true_iou(logits[:, masks], truth)
    loss = each[:, 0] + each[:, 1:].min(1).values if multimask else each[:, 0]
    return loss + iou_weight * ((iou[:, masks] - real) ** 2).mean(1), real[:, 0]
