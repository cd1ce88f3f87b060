"""Build a SAM of any architecture, without weights."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything import sam_model_registry

from . import nano
from .tiny_vit import build_vit_t


def build_sam(architecture: str) -> Any:
    """Return a SAM with random weights; large ones have none at all, so that nothing is drawn to be thrown away."""
    if architecture in nano.ARCHITECTURES:
        return nano.build_nano(architecture)
    with torch.device("meta"):
        return build_vit_t() if architecture == "vit_t" else sam_model_registry[architecture]()
