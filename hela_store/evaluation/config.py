"""Settings of evaluations and comparisons; the command line reads them too, so nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hela_store.errors import PromptError, RecipeError
from hela_store.prompts.kinds import HEADLINE_PROMPTS, ROBUSTNESS_PROMPTS
from hela_store.recipe.splits import SPLITS

METRICS = ("iou", "dice", "boundary_iou", "nsd1", "nsd2")
"""Scores from 0 to 1, higher is better; the limits of rule "statistics" are made for these."""

METRIC_WORDS = {"iou": "IoU", "dice": "Dice"}
"""Metrics that have another name in sentences."""

PARTS = {
    "small": "smallest third",
    "medium": "middle third in size",
    "large": "largest third",
    "dark": "dimmest third",
    "middling": "middle third in brightness",
    "bright": "brightest third",
    "touching": "touching another",
    "alone": "touching no other",
    "bright-small": "bright and small",
    "dim": "dimmest fifth of a frame",
    "border": "at the border",
    "inside": "away from the border",
    "round": "roundest third",
    "oval": "middle third in shape",
    "elongated": "most elongated third",
    "sparse": "third with most space",
    "spaced": "middle third in crowding",
    "crowded": "most crowded third",
    "early": "first third in time",
    "midway": "middle third in time",
    "late": "last third in time",
}
"""Parts of the cells, by the names of :mod:`hela_store.evaluation.parts`, as tables call them."""

FOREIGN = ("turned", "mean", "frame", "sequence")
"""Embeddings that controls decode with; the first is the default."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation.

    Attributes
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    prompts : kinds drawn from the truth; none where own prompts are given
    prompt_seeds : how many draws of each kind a cell gets
    prompt_table : own boxes or points, Parquet or CSV, see :func:`hela_store.prompts.table.read_prompt_table`
    prompt_masks : folder of own label images, matched to cells by overlap
    foreign : a control: every prompt is decoded with an embedding in which the cells are elsewhere, so that what is
        left of the score comes from the prompt; the run's kind is ``"control"``. One of :data:`FOREIGN`:
        ``"turned"`` by 180 degrees; the ``"mean"`` over all positions and views of the split; that of the ``"frame"``
        half the split away, where cells that move little are at their places; that of another ``"sequence"``
    robustness : curves in place of ``prompts``: box jitter of 0 to 30 %, click place, the mask prompt's own IoU; the
        run's kind is ``"robustness"``
    window : positions along each side that a prompt reads at least; None for the encoder's default
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    """

    split: str = "test"
    prompts: tuple[str, ...] = HEADLINE_PROMPTS
    prompt_seeds: int = 3
    prompt_table: Path | None = None
    prompt_masks: Path | None = None
    foreign: str | None = None
    robustness: bool = False
    window: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise RecipeError(f"split is {self.split!r}, expected one of {', '.join(SPLITS)}")
        from hela_store.prompts.draw import check_prompt_kind  # loads NumPy, which the help of commands does without

        for kind in self.prompts:
            check_prompt_kind(kind)
        if self.foreign is not None and self.foreign not in FOREIGN:
            raise RecipeError(f"foreign is {self.foreign!r}, expected one of {', '.join(FOREIGN)}")
        if self.robustness:
            object.__setattr__(self, "prompts", ROBUSTNESS_PROMPTS)
        if self.robustness and (self.foreign or self.prompt_table or self.prompt_masks):
            raise PromptError("robustness curves make prompts of their own; leave out own prompts and the control")
        if not 1 <= self.prompt_seeds <= 100:
            raise RecipeError(f"prompt_seeds is {self.prompt_seeds}, expected 1 to 100")
        if self.window is not None:
            from hela_store.sam.predict import check_window  # loads torch

            check_window(self.window)
