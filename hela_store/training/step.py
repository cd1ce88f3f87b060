"""The loss of one training step: windows, passes and prompts that follow from the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.base.rng import generator
from hela_store.images.geometry import EMBEDDING_POSITIONS
from hela_store.sam.clicks import corrected_prompts
from hela_store.sam.decoder import SamDecoder, SamPrompts, crop_windows, view_tokens, window_origins
from hela_store.sam.predict import WINDOWS, window_sizes
from hela_store.training.losses.decoder import decoder_loss, ramp

from .data import FINE, TrainingStep

if TYPE_CHECKING:
    from .config import FinetuneConfig


LOSS_PIXELS = FINE // 64
"""Truth pixels per embedding position."""


def training_windows(prompts: SamPrompts, truth: Tensor, labels: Tensor, window: int) -> npt.NDArray[np.int64]:
    """Return the window each prompt learns in, (B,): that of :mod:`hela_store.sam.predict`, grown to hold the cell.

    Predictions grow where the predicted mask touches their window's edge; so does this where the true one does, or a
    cell larger than the window would only ever be seen cut.

    Parameters
    ----------
    prompts : of B cells
    truth : integer, (512, 512), labels of the view
    labels : integer, (B,), of the cells
    window : least size
    """
    sizes = window_sizes(prompts, window)
    for size in WINDOWS[:-1]:
        part = np.flatnonzero(sizes == size)
        if not len(part):
            continue
        index = torch.from_numpy(part).to(labels.device)
        origins = window_origins(prompts.take(index), size)
        inside = crop_windows(truth[None, None], origins, size * LOSS_PIXELS, LOSS_PIXELS)[:, 0]
        inside = inside == labels[index][:, None, None]
        before, after = origins > 0, origins + size < EMBEDDING_POSITIONS  # (B, 2): there is more to see in x, in y
        rows, columns = inside.any(2), inside.any(1)
        cut = rows[:, 0] & before[:, 1] | rows[:, -1] & after[:, 1]
        cut |= columns[:, 0] & before[:, 0] | columns[:, -1] & after[:, 0]
        sizes[part[cut.cpu().numpy()]] = 2 * size
    return sizes


def step_loss(decoder: SamDecoder, batch: TrainingStep, config: FinetuneConfig) -> tuple[Tensor, Tensor]:
    """Return the losses of the cells of one view, over all passes, and the first pass's IoUs, (B,) each."""
    assert config.prompts.window is not None
    device = next(decoder.parameters()).device
    # where the batch was read, so that no GPU is asked for them
    sizes = training_windows(batch.prompts, batch.truth, batch.labels, config.prompts.window)
    prompts, tokens = batch.prompts.to(device), view_tokens(batch.embedding.to(device, non_blocking=True))
    labels, truth = (part.to(device, non_blocking=True) for part in (batch.labels, batch.truth))
    rng = generator("passes", config.seed, batch.step)
    passes = 1 + max(
        config.prompts.clicks - 1 if prompts.points is not None else 0, int(rng.random() < config.prompts.refine)
    )
    losses, ious = torch.zeros(len(prompts), device=device), torch.zeros(len(prompts), device=device)
    for size in sorted({int(size) for size in sizes}):
        part = torch.from_numpy(np.flatnonzero(sizes == size)).to(device, non_blocking=True)
        given: SamPrompts = prompts.take(part)
        origins: Tensor | None = None
        inside = truth  # cut to the windows below, once these are known
        for number in range(passes):
            lone = given.boxes is None and given.masks is None
            decoded = decoder(tokens, given, window=size, multimask=None if lone else False, origins=origins)
            if origins is None:
                origins = decoded.origins
                cut = crop_windows(truth[None, None], origins, size * LOSS_PIXELS, LOSS_PIXELS)[:, 0]
                inside = (cut == labels[part][:, None, None]).to(torch.uint8)
            weight = config.loss.weight * ramp(
                batch.step // config.optimiser.accumulate, config.optimiser.steps, config.loss.ramp
            )
            loss, real = _pass_loss((decoded.logits, decoded.iou), inside, config, weight)
            losses = losses.index_add(0, part, loss / passes)
            if number == 0:
                ious = ious.index_copy(0, part, real)
            if number + 1 < passes:
                given = corrected_prompts(given, decoded.logits[:, 0], inside, origins, rng)
    return losses, ious


def _pass_loss(
    decoded: tuple[Tensor, Tensor], truth: Tensor, config: FinetuneConfig, weight: float
) -> tuple[Tensor, Tensor]:
    """Return the losses of one pass, (B,), and the single mask's IoUs, (B,), of logits and IoUs, (B, M, ...) each."""
    logits, iou = decoded
    several = logits.shape[1] > 1
    if not several or config.prompts.masks == "best":
        return decoder_loss(logits, iou, truth, multimask=several, name=config.loss.name, weight=weight)
    alone = logits.flatten(0, 1)[:, None], iou.flatten()[:, None], truth.repeat_interleave(logits.shape[1], 0)
    loss, real = decoder_loss(*alone, multimask=False, name=config.loss.name, weight=weight)
    loss, real = loss.view(iou.shape), real.view(iou.shape)
    return loss[:, 0] + loss[:, 1:].mean(1), real[:, 0]
