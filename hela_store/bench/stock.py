"""Encoders as their authors run them, for what is timed against them."""

from __future__ import annotations

import warnings
from typing import Any

from segment_anything import SamPredictor

from hela_store.errors import RecipeError
from hela_store.sam.build import random_sam
from hela_store.sam.modeling import Sam
from hela_store.sam.nano import load_nano


def stock_sam(architecture: str) -> tuple[Sam, type[SamPredictor]]:
    """Return the model of its authors' own package, and their predictor: ``vit_t`` is MobileSAM's.

    nano has the weights that it ships, the others random ones, which take as long.

    Raises
    ------
    RecipeError
        MobileSAM's package cannot be imported.
    """
    if architecture != "vit_t":
        return load_nano() if architecture == "nano" else random_sam(architecture), SamPredictor
    try:
        with warnings.catch_warnings(action="ignore"):  # it imports from places that timm has moved
            import mobile_sam
    except ImportError as error:
        raise RecipeError(
            f"vit_t is timed against MobileSAM's own package, which cannot be imported ({error}); run "
            "`pip install mobilesam-mirror timm`"
        ) from error
    theirs: Any = mobile_sam
    return theirs.sam_model_registry["vit_t"](), theirs.SamPredictor
