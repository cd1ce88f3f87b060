"""Settings of the page; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from hela_store.errors import RecipeError

RULES = ("random", "doubt", "far", "disagreement", "time")
"""How the next cell can be chosen."""
CONTROL = 5
"""Every so many cells that are offered, one is random, whatever the rule."""


@dataclass(frozen=True, kw_only=True)
class TeachConfig:
    """Describe a session of teaching.

    Attributes
    ----------
    who : name of the person, kept with every label
    next : how the next cell is chosen: ``"random"``, ``"doubt"`` (the least sure proposal), ``"far"`` (the proposal
        whose vector is farthest from those of the cells that were taught), ``"disagreement"`` (the proposal that the
        decoder and the one before it draw most differently) or ``"time"`` (the proposal that fits least to those of
        the frames before and after)
    every : accepted cells after which the decoder is fine-tuned
    held : share of the cells that judges and is never trained on; a nucleus in several frames counts once
    steps : training steps of one fine-tuning, at most
    seconds : how long one fine-tuning may take, its scores included; it makes as many steps as fit
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    who: str = "me"
    next: str = "random"
    every: int = 20
    held: float = 0.2
    steps: int = 200
    seconds: float = 60.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.next not in RULES:
            raise RecipeError(f"next is {self.next!r}, expected one of {', '.join(RULES)}")
        if self.every < 1 or self.steps < 1:
            raise RecipeError(f"every is {self.every} and steps is {self.steps}, expected 1 or more of each")
        if not self.seconds > 0:
            raise RecipeError(f"seconds is {self.seconds}, expected more than 0")
        if not 0 < self.held < 1:
            raise RecipeError(f"held is {self.held}, expected a share above 0 and below 1")
