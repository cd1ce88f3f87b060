"""Build a SAM of any architecture, without weights or with random ones."""

from __future__ import annotations

import torch

from . import nano
from .modeling import Sam, sam_model_registry
from .tiny_vit import build_vit_t


def build_sam(architecture: str) -> Sam:
    """Return a SAM with random weights; large ones have none at all, so that nothing is drawn to be thrown away."""
    if architecture in nano.ARCHITECTURES:
        return random_sam(architecture)
    with torch.device("meta"):
        return random_sam(architecture)


def random_sam(architecture: str) -> Sam:
    """Return a SAM with random weights, which take as long as trained ones."""
    if architecture in nano.ARCHITECTURES:
        return nano.build_nano(architecture)
    built: Sam = build_vit_t() if architecture == "vit_t" else sam_model_registry[architecture]()
    return built
