"""The loss of the ``grid`` head. Shapes as in :mod:`hela_store.detection.head`; truth as in ``detect.targets``."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, max_pool2d

from hela_store.images.boxes import box_iou

from .head import HeadOutput
from .targets import HEAD_POSITIONS, Targets

PEAKS = 96
"""Most peaks of a view that learn their quality."""
LEAST = 0.03
"""Least probability of a peak that learns its quality."""

INSIDE = 3.0
"""Weight of the inside map: a mean over positions learns slowly beside the centre loss, a sum over cells."""


def stack_targets(targets: list[Targets]) -> dict[str, Tensor]:
    """Return the maps of several views as tensors, (B, ...)."""
    names = [f.name for f in fields(Targets) if f.name != "boxes"]
    return {name: torch.from_numpy(np.stack([getattr(t, name) for t in targets])) for name in names}


def centre_loss(logits: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss (Law & Deng, "CornerNet", 2018, eq. 1) over counted positions, per cell."""
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    hit = (truth == 1) & counted
    miss = ((1 - truth) ** 4) * probability**2 * torch.log(1 - probability)
    right = (1 - probability) ** 2 * torch.log(probability)
    total = torch.where(hit, right, miss) * counted
    return -total.sum() / hit.sum().clamp(min=1)


def head_loss(output: HeadOutput, truth: dict[str, Tensor], boxes: list[np.ndarray]) -> Tensor:
    """Return one number for B views.

    Parameters
    ----------
    output : of B views
    truth : from :func:`stack_targets`
    boxes : float32, (N, 4) each, of whole cells, positions
    """
    loss = centre_loss(output.centre, truth["centre"], truth["counted"])
    known = truth["inside_counted"]
    if known.any():
        inside = truth["inside"][known].float()
        p = output.inside[known].sigmoid()
        dice = 1 - (2 * (p * inside).sum() + 1) / (p.sum() + inside.sum() + 1)
        loss = loss + INSIDE * (binary_cross_entropy_with_logits(output.inside[known], inside) + dice)
    for name, weight, where in (("offset", 0.3, "has_offset"), ("size", 1.0, "has_size"), ("click", 0.1, "has_size")):
        here = truth[where][:, None].expand(-1, 2, -1, -1)
        if here.any():
            loss = loss + weight * l1_loss(getattr(output, name)[here], truth[name][here])
    return loss + 0.5 * quality_loss(output, truth, boxes)


def local_peaks(probability: Tensor) -> Tensor:
    """Return where a map (B, H, W) is largest among its eight neighbours, bool."""
    return max_pool2d(probability[:, None], 3, stride=1, padding=1)[:, 0] == probability


def quality_loss(output: HeadOutput, truth: dict[str, Tensor], boxes: list[np.ndarray]) -> Tensor:
    """Return the cross-entropy of quality with the IoU that a box from the head's own peaks has; 0 is debris.

    So the score learns what the centre map alone gets wrong (Jiang et al., "IoU-Net", 2018, section 3.1).
    """
    probability = output.centre.detach().sigmoid() * truth["counted"]
    peaks = local_peaks(probability) & (probability > LEAST)
    losses = []
    for b in range(len(boxes)):
        flat = torch.nonzero(peaks[b].flatten()).flatten()
        flat = flat[probability[b].flatten()[flat].argsort(descending=True)[:PEAKS]]
        if len(flat) == 0:
            continue
        found = boxes_at(output, b, flat).detach().cpu().numpy()
        overlaps = box_iou(found, boxes[b]).max(1) if len(boxes[b]) else np.zeros(len(found))
        wanted = torch.from_numpy(overlaps).to(output.quality)
        losses.append(binary_cross_entropy_with_logits(output.quality[b].flatten()[flat], wanted))
    return torch.stack(losses).mean() if losses else output.quality.sum() * 0


def boxes_at(output: HeadOutput, view: int, flat: Tensor) -> Tensor:
    """Return the boxes that positions (row * 128 + column) of one view propose, (N, 4) positions, grid edge at 0."""
    rows, columns = flat // HEAD_POSITIONS, flat % HEAD_POSITIONS
    centre = torch.stack([columns, rows]) + 0.5 + output.offset[view][:, rows, columns]
    half = output.size[view][:, rows, columns].exp() / 2
    return torch.cat([centre - half, centre + half]).T
