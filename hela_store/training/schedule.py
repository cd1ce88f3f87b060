"""The learning rate of every training in this library: one function."""

from __future__ import annotations

import math

from hela_store.errors import RecipeError

MOST = 1.0
"""Largest learning rate: every training here uses AdamW, whose steps are as long as the rate, whatever the loss."""


def learning_rate(
    step: int, *, peak: float, steps: int, warmup: int = 0, schedule: str = "cosine", floor: float = 0.1
) -> float:
    """Return the learning rate of one optimiser step.

    Parameters
    ----------
    step : int
        Number of steps done before this one.
    peak : float
        The rate that the schedule starts from.
    steps : int
        Length of the training, in steps.
    warmup : int
        Number of steps over which the rate first rises in a line; 0 for no warm-up.
    schedule : str
        ``"cosine"`` or ``"linear"``: from ``peak`` at step 0 to ``floor * peak`` at the end. ``"constant"``: no decay.
    floor : float
        Share of ``peak`` that is left at the end.
    """
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    share = min(1.0, step / steps)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[schedule]
    return peak * warm * (floor + (1 - floor) * left)


def check_rate(lr: float, usual: str) -> None:
    """Raise RecipeError for a learning rate that no training can use, naming a ``usual`` one."""
    if not 0 < lr <= MOST:
        raise RecipeError(f"lr is {lr}, expected at most {MOST:g} and a positive number such as {usual}")
