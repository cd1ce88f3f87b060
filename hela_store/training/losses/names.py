"""The losses by name; a module of its own, so that the command line can check a name without loading torch."""

from __future__ import annotations

from hela_store.errors import RecipeError

REGION = "dice+bce"
EXTRA_LOSSES = ("boundary", "boundary-normalised", "hausdorff-distance", "hausdorff-erosion", "hausdorff-convolution")
"""Losses that are added to Dice + cross-entropy."""
LOSSES = (REGION, "dice+focal", *EXTRA_LOSSES)


def check_loss(name: str) -> str:
    """Return ``name``; RecipeError unless it is one of :data:`LOSSES`."""
    if name not in LOSSES:
        raise RecipeError(f"loss is {name!r}, expected one of {', '.join(LOSSES)}")
    return name
