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


MIXES: dict[str, tuple[PromptKind, ...]] = {"all": MIXED_PROMPTS, "box-or-point": ("box", "point")}
"""Names of several kinds that one decoder is fine-tuned for: each step has prompts of one of them."""


TRAINING_PROMPTS = (*MIXED_PROMPTS, *MIXES)
"""What a decoder is fine-tuned for."""


def kinds_trained(prompt: str) -> tuple[str, ...]:
    """Return the kinds that a decoder is fine-tuned for and validated on, of one of :data:`TRAINING_PROMPTS`."""
    return MIXES.get(prompt, (prompt,))


ROBUSTNESS_PROMPTS = (
    *("box@0", "box@0.05", "box@0.1", "box@0.15", "box@0.2", "box@0.25", "box@0.3"),
    *("point@0", "point@0.25", "point@0.5", "point@0.75", "point@1"),
    *("mask@0.45", "mask@0.55", "mask@0.65", "mask@0.75", "mask@0.85"),
)
"""Curves: box jitter, click from the edge (0) to the innermost pixel (1), the mask prompt's own IoU."""
