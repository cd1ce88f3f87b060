"""Settings of a study of budgets; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hela_store.baselines.config import UnetConfig
from hela_store.errors import PromptError, RecipeError
from hela_store.prompts.kinds import MIXED_PROMPTS
from hela_store.training.config import FinetuneConfig

ALL = "all"
PICKS = ("random", "frames", "far", "doubt")
"""Ways to choose the cells that are annotated, see :mod:`hela_store.studies.picks`."""
FINDING = ("unet", "classical")
"""Methods that are given no prompt, and find the cells themselves."""
METHODS = ("decoder", "lora", "encoder-full", *FINDING)
"""What is trained: the mask decoder, low-rank adapters in it, the decoder and the encoder's blocks after a cut, or a
U-Net; of a classical method parameters are searched."""
LEAST = 3
"""Cells below which a budget cannot be split into cells that train and cells that choose the step."""
CROSSED_BELOW = 25
"""Budgets below this are cross-validated over their cells."""
HELD_SHARE = 0.2
"""Share of a larger budget that is held back to choose the step."""
HELD_MOST = 300
STEPS = ((25, 100), (150, 150), (1000, 250), (math.inf, 400))
"""Optimiser steps of a budget: those of the first limit that is above it."""
OWN = (
    "prompt", "seed", "variants", "steps", "accumulate", "train_cells", "held_cells", "pick", "workers", "device",
)  # fmt: skip
"""Settings of a fine-tuning, by flat name, in which points of one curve may differ, or by which curves are named."""
CELLS_A_STEP = 8
MOST_VIEWS = 4
"""Where a view holds few labelled cells, a step takes this many views at most."""


@dataclass(frozen=True, kw_only=True)
class BudgetStudyConfig:
    """Describe a study of budgets.

    Attributes
    ----------
    budgets : numbers of labelled cells; ``"all"`` for every cell of the training block
    picks : how the cells are chosen
    seeds : training seeds, each with cells of its own: 0 to ``seeds - 1``
    prompts : kinds, each with decoders of its own
    methods : what is trained
    variants : numbers of augmented variants that train beside the views as acquired
    split : block that is scored, ``"test"`` or ``"val"``; neither trains nor chooses a step
    prompt_seeds : draws of each kind that a scored cell gets
    test_cells : most cells of that block that are scored
    cut : blocks of the encoder that stay as they are, for ``"encoder-full"``
    tuning : what all fine-tunings share; its prompt, seed, cells and steps are set by the study
    steps : optimiser steps of every budget; None for those of :data:`STEPS`
    """

    budgets: tuple[int | str, ...] = (5, 10, 20, 50, 100, 200, 500, ALL)
    picks: tuple[str, ...] = ("random",)
    seeds: int = 5
    prompts: tuple[str, ...] = ("box",)
    methods: tuple[str, ...] = ("decoder",)
    variants: tuple[int, ...] = (0,)
    split: str = "test"
    prompt_seeds: int = 1
    test_cells: int = 500
    cut: int | None = None
    tuning: FinetuneConfig = field(default_factory=FinetuneConfig)
    steps: int | None = None

    def __post_init__(self) -> None:
        _check_budgets(self.budgets)
        _check_each("pick", self.picks, PICKS)
        _check_each("method", self.methods, METHODS)
        if not self.prompts or not set(self.prompts) <= set(MIXED_PROMPTS):
            found = ", ".join(self.prompts) or "none"
            raise PromptError(f"prompts of the study: {found}; expected some of {', '.join(MIXED_PROMPTS)}")
        if not 1 <= self.seeds <= 100:
            raise RecipeError(f"seeds is {self.seeds}, expected 1 to 100")
        if self.cut is not None and "encoder-full" not in self.methods:
            raise RecipeError(
                f"cut is {self.cut}, which only method encoder-full takes; leave it out, or add the method"
            )
        if "encoder-full" in self.methods and self.cut is None:
            raise RecipeError("method encoder-full needs --cut K; store its tokens with `hela-store embed --cut K`")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The budgets that are numbers, the smallest first."""
        return tuple(sorted(int(budget) for budget in self.budgets if budget != ALL))


def parse_budgets(text: str) -> tuple[int | str, ...]:
    """Return the budgets of a list such as ``"5,10,all"``; RecipeError where a part is neither a number nor all."""
    found: list[int | str] = []
    for part in (part.strip() for part in text.split(",")):
        if part != ALL and not part.isdecimal():
            raise RecipeError(f"budget {part!r} is neither a number of cells nor {ALL!r}; write such as 5,20,100,all")
        found.append(ALL if part == ALL else int(part))
    return tuple(found)


def steps_of(budget: int, method: str = "decoder") -> int:
    """Return the optimiser steps of a budget; a U-Net, which begins from nothing, has as many for all."""
    if method == "unet":
        return UnetConfig().steps
    return next(steps for limit, steps in STEPS if budget < limit)


def held_of(budget: int, method: str = "decoder") -> int:
    """Return how many cells of a budget are held back to choose the step.

    None are where it is cross-validated, or where a classical method is searched on all of them. A U-Net is too costly
    to be cross-validated.
    """
    if method == "classical" or (budget < CROSSED_BELOW and method != "unet"):
        return 0
    return min(HELD_MOST, max(1, round(HELD_SHARE * budget)))


def _check_budgets(budgets: Sequence[int | str]) -> None:
    if not budgets:
        raise RecipeError("no budget is named; give numbers of cells, such as 5,20,100,all")
    if twice := next((one for one in budgets if budgets.count(one) > 1), None):
        raise RecipeError(f"budget {twice} is given twice; give each budget once")
    for budget in budgets:
        if budget != ALL and int(budget) < LEAST:
            raise RecipeError(
                f"budget {budget} cannot be split into cells that train and cells that choose the step; expected "
                f"{LEAST} cells or more"
            )


def _check_each(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if not given or not set(given) <= set(known):
        raise RecipeError(f"{what} is {', '.join(given) or 'none'}, expected some of {', '.join(known)}")
