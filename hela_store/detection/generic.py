"""The detector that ships with the package: cells in embeddings of ``nano``, without any store."""

from __future__ import annotations

from pathlib import Path

import torch

from hela_store.base.files import sha256_file
from hela_store.errors import RunError
from hela_store.sam.nano import NANO_FILE

from .head import GridHead, load_head

GENERIC_FILE = NANO_FILE.with_name("nano-detector.safetensors")
GENERIC_ENCODER = "nano@1"
"""The edition of nano whose embeddings the detector was trained on."""
GENERIC_THRESHOLD = 0.5
"""Score from which a detection counts."""
SMALL = 64.0
"""Median side of the detected boxes, SAM input px, below which a frame is looked at again in smaller tiles."""
FINER = 384
"""Side of these tiles, px; both numbers were chosen on validation parts (AP 0.824 -> 0.864 where cells are small)."""


def generic_name() -> str:
    """Return the name of the shipped detector, with the beginning of its file's sha256."""
    return f"generic-{sha256_file(GENERIC_FILE)[:12]}"


def has_generic_head(sha256: str) -> bool:
    """Whether this version ships a detector for the SAM whose weights file has this sha256."""
    try:
        load_generic_head(sha256)
    except RunError:
        return False
    return True


def load_generic_head(sha256: str, device: str | torch.device = "cpu") -> GridHead:
    """Return the shipped detector for the SAM whose weights file has this sha256.

    Raises
    ------
    RunError
        This version ships none, or one of other weights; the file is damaged.
    """
    path = Path(GENERIC_FILE)
    if not path.is_file():
        raise RunError(
            f"this version of hela-store ships no detector ({path.name}), so it cannot segment without a store; train "
            "one with `hela-store detect train -s NAME`, then segment with `-s NAME`"
        )
    return load_head(path, sha256, device)
