"""Checkpoints as other projects write them, with random weights: made by their own classes, or drawn by names alone."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from hela_store.sam.tiny_vit import build_vit_t


def drawn(module: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter and statistic with numbers that matter, and return the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):  # else the image is hardly seen behind so many layers
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    for name, value in module.named_parameters():
        if name.endswith(("attention_biases", "rel_pos_h", "rel_pos_w", "pos_embed")):
            value.data.normal_(0, 0.5, generator=generator)
    return module.train().eval()  # MobileSAM gathers its attention's biases when the mode changes


@functools.cache
def mobile_sam() -> Any:
    """Return MobileSAM of its own package."""
    with warnings.catch_warnings(action="ignore"):  # it imports from places that timm has moved
        from mobile_sam import sam_model_registry
    torch.manual_seed(0)
    return drawn(sam_model_registry["vit_t"]())


@functools.cache
def vit_t_state() -> dict[str, torch.Tensor]:
    """Return the tensors of a vit_t with random weights."""
    torch.manual_seed(0)
    return {name: value.clone() for name, value in drawn(build_vit_t()).state_dict().items()}
