"""Second passes: a decoder's own logits fed back, mostly with a click where they were wrong.

As SAM was trained (Kirillov et al. 2023, section A), one way for pretraining and for tuning.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .decoder import POSITION, SamPrompts

CLICK_SHARE = 0.7
"""Second passes that come with a click; the others show the previous logits alone."""
LARGEST_LOGIT = 12.0


def corrected_prompts(
    given: SamPrompts, logits_BHW: Tensor, truth_BHW: Tensor, origins: Tensor, rng: np.random.Generator
) -> SamPrompts:
    """Return the prompts of a pass that follows one with ``given``.

    Parameters
    ----------
    given : B prompts; their masks are replaced, boxes and points kept
    logits_BHW : float32, (B, 4 window, 4 window), of the pass before; no gradient runs through them
    truth_BHW : 0 or 1, (B, k window, k window)
    origins : int64, (B, 2), ``(x, y)`` of each window in the 64x64 grid
    rng : draws whether and where to click: uniformly among the wrong pixels

    Returns
    -------
    SamPrompts
        With one more point each (label -1, SAM's padding, where none was made), and masks cut to the windows.
    """
    previous = logits_BHW.detach().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    fine = interpolate(previous[:, None], size=truth_BHW.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
    step = POSITION * logits_BHW.shape[-1] / 4 / truth_BHW.shape[-1]  # SAM input px per truth px
    clicks, labels = np.zeros((len(fine), 1, 2), np.float32), np.full((len(fine), 1), -1.0, np.float32)
    parts = (fine.cpu().numpy(), truth_BHW.cpu().numpy().astype(bool), origins.cpu().numpy())
    for i, (mask, truth, origin) in enumerate(zip(*parts, strict=True)):
        wrong = np.argwhere(mask != truth)
        if len(wrong) == 0 or rng.random() > CLICK_SHARE:
            continue
        y, x = wrong[rng.integers(len(wrong))]
        clicks[i, 0] = (np.array([x, y]) + 0.5) * step - 0.5 + origin * POSITION
        labels[i, 0] = float(truth[y, x])
    points, point_labels = torch.from_numpy(clicks).to(previous), torch.from_numpy(labels).to(previous)
    if given.points is not None and given.point_labels is not None:
        points, point_labels = (
            torch.cat([given.points, points], 1),
            torch.cat([given.point_labels, point_labels], 1),
        )
    return SamPrompts(boxes=given.boxes, points=points, point_labels=point_labels, masks=previous[:, None])
