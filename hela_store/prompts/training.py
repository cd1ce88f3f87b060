"""First prompts of training: more varied than those that are scored, so that a perfect one is never a stranger."""

from __future__ import annotations

import numpy as np

from hela_store.errors import PromptError

from .context import CellContext
from .draw import JITTER, DrawnPrompt, draw_prompt
from .error_model import GENERIC, ErrorModel
from .kinds import TRAINING_PROMPTS, kinds_trained

EXACT_SHARE = 0.25
"""Boxes without any jitter; the others have the evaluation's."""
PERFECT_SHARE = 0.15
"""Mask prompts that are the truth: a decoder that never saw one learns to change every mask it is given."""


def check_training_prompt(kind: str) -> str:
    """Return ``kind``; PromptError unless it is one of :data:`hela_store.prompts.kinds.TRAINING_PROMPTS`."""
    if kind not in TRAINING_PROMPTS:
        raise PromptError(f"prompt is {kind!r}, expected one of {', '.join(TRAINING_PROMPTS)}")
    return kind


def kind_of_step(kind: str, rng: np.random.Generator) -> str:
    """Return the kind of prompt a step trains: drawn, where several are trained in one run."""
    kinds = kinds_trained(kind)
    return str(rng.choice(kinds)) if len(kinds) > 1 else kind


def draw_training_prompt(
    rng: np.random.Generator, kind: str, cell: CellContext, model: ErrorModel = GENERIC
) -> DrawnPrompt:
    """Draw a prompt of one kind; some boxes and masks are exact, other masks differ as ``model`` says."""
    exact_box, exact_mask = rng.random() < EXACT_SHARE, rng.random() < PERFECT_SHARE
    parts = ["mask-perfect" if part == "mask" and exact_mask else part for part in kind.split("+")]
    return draw_prompt(rng, "+".join(parts), cell, jitter=0.0 if exact_box else JITTER, model=model)
