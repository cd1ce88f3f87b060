"""The names of the kinds of prompts; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal, get_args

PromptKind = Literal[
    "box", "box-exact", "point", "point-centre", "point-clicks", "mask", "mask-perfect", "mask-previous", "box+mask",
    "point+mask",
]  # fmt: skip


PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)


HEADLINE_PROMPTS: tuple[PromptKind, ...] = ("box", "box-exact", "point", "mask")


MIXED_PROMPTS: tuple[PromptKind, ...] = ("box", "point", "mask", "box+mask", "point+mask")


IMAGE_FREE_PROMPTS: tuple[PromptKind, ...] = ("box", "box-exact", "point", "point-centre", "mask")
"""Those that an answer without the image is made for."""


NO_PROMPT = "none"
"""Prompt kind of cells that were found without a prompt."""


TRAINING_PROMPTS = (*MIXED_PROMPTS, "all")
"""What a decoder is tuned for; ``"all"``: one for all of them."""


ROBUSTNESS_PROMPTS = (
    *("box@0", "box@0.05", "box@0.1", "box@0.15", "box@0.2", "box@0.25", "box@0.3"),
    *("point@0", "point@0.25", "point@0.5", "point@0.75", "point@1"),
    *("mask@0.45", "mask@0.55", "mask@0.65", "mask@0.75", "mask@0.85"),
)
"""Curves: box jitter, click from the edge (0) to the innermost pixel (1), the mask prompt's own IoU."""
