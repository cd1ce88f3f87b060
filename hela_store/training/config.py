"""Settings of a fine-tuning, in sections that check themselves.

Command lines, the grids of sweeps and the ``config.json`` of runs use one flat name for each setting, such as ``lr``
for ``optimiser.lr``: :data:`NAMES` says which. Error messages use the flat names too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hela_store.base.sections import check_names, flatten, section
from hela_store.errors import PromptError, RecipeError
from hela_store.prompts.kinds import MIXES, TRAINING_PROMPTS, kinds_trained
from hela_store.training.losses.names import REGION, check_loss
from hela_store.training.schedule import check_rate

if TYPE_CHECKING:
    from hela_store.sam.adapters import Adapter

ENCODER = ("encoder", "encoder-full")
ADAPT = ("decoder", *ENCODER)
SCHEDULES = ("cosine", "linear", "constant")
MASKS = ("best", "all")
RANK = 4
MOST_WEIGHT = 1e6
"""Largest weight of a term of the loss: a larger one leaves nothing of the others in float32."""

NAMES = {
    "prompt": "prompt",
    "steps": "optimiser.steps",
    "lr": "optimiser.lr",
    "weight_decay": "optimiser.weight_decay",
    "ema": "optimiser.ema",
    "cells": "prompts.cells",
    "seed": "seed",
    "window": "prompts.window",
    "warmup": "optimiser.warmup",
    "schedule": "optimiser.schedule",
    "evaluate_every": "validation.every",
    "patience": "validation.patience",
    "accumulate": "optimiser.accumulate",
    "loss": "loss.name",
    "loss_weight": "loss.weight",
    "loss_ramp": "loss.ramp",
    "masks": "prompts.masks",
    "clicks": "prompts.clicks",
    "refine": "prompts.refine",
    "init": "init",
    "validation_cells": "validation.cells",
    "workers": "data.workers",
    "variants": "data.variants",
    "adapt": "adapt.part",
    "cut": "adapt.cut",
    "rank": "adapt.rank",
    "conv": "adapt.conv",
    "linear": "adapt.linear",
    "device": "device",
    "blind": "blind",
    "train_cells": "budget.train",
    "held_cells": "budget.held",
    "pick": "budget.pick",
    "errors_like": "errors_like",
}
"""Where each setting lies, by the flat name it has on command lines, in grids and in ``config.json``."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Describe how weights follow the gradients.

    Attributes
    ----------
    steps : optimiser steps
    lr : learning rate of AdamW at its peak, after ``warmup`` steps
    schedule : ``"cosine"`` or ``"linear"``, down to a tenth of ``lr``, or ``"constant"``
    warmup : steps until the learning rate is at its peak
    weight_decay : of AdamW
    ema : decay of a running average of the weights, such as 0.99; the average is validated and kept. 0 for none
    accumulate : views per step
    """

    steps: int = 500
    lr: float = 3e-4
    schedule: str = "cosine"
    warmup: int = 20
    weight_decay: float = 0.01
    ema: float = 0.99
    accumulate: int = 1

    def __post_init__(self) -> None:
        check_rate(self.lr, "1e-4")
        _check_least({"steps": self.steps, "accumulate": self.accumulate}, 1)
        _check_least({"warmup": self.warmup}, 0)
        _check_share("weight_decay", self.weight_decay)
        if not 0 <= self.ema < 1:
            raise RecipeError(f"ema is {self.ema}, expected a decay such as 0.99, or 0 for none")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Describe which cells and prompts a training step shows.

    Attributes
    ----------
    cells : maximum number of cells of a view that are trained at once
    window : positions along each side that a prompt reads; None for the encoder's default
    masks : which of the three masks of a lone point are trained. ``"best"`` trains the best one only, so that the three
        stay different readings. ``"all"`` trains each: one kind of cell has one reading, and whichever mask the
        predicted IoU chooses has then learned it
    clicks : passes with point prompts: the first click, then one in the region of the error each, logits fed back
    refine : share of the steps with a second pass, for any kind of prompt
    """

    cells: int = 16
    window: int | None = None
    masks: str = "best"
    clicks: int = 1
    refine: float = 0.0

    def __post_init__(self) -> None:
        _check_least({"cells": self.cells, "clicks": self.clicks}, 1)
        _check_share("refine", self.refine)
        if self.masks not in MASKS:
            raise RecipeError(f"masks is {self.masks!r}, expected one of {', '.join(MASKS)}")
        if self.window is not None:
            from hela_store.sam.predict import check_window  # loads torch, which the help of commands does without

            check_window(self.window)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Describe what the masks are trained with.

    Attributes
    ----------
    name : one of :data:`hela_store.training.losses.names.LOSSES`
    weight : of the boundary or Hausdorff term that is added to Dice + cross-entropy
    ramp : share of the steps over which that weight grows from 0
    """

    name: str = REGION
    weight: float = 1.0
    ramp: float = 0.5

    def __post_init__(self) -> None:
        check_loss(self.name)
        if not 0 <= self.weight <= MOST_WEIGHT:
            raise RecipeError(f"loss_weight is {self.weight}, expected 0 to {MOST_WEIGHT:g}")
        _check_share("loss_ramp", self.ramp)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Describe how often the validation block is scored, and on how much of it.

    Attributes
    ----------
    every : steps between validation scores; 0 for one epoch, but at least three times a run
    patience : validations without a better one after which training stops; 0 for never
    cells : maximum number of cells to score, spread over the validation block
    """

    every: int = 0
    patience: int = 0
    cells: int = 300

    def __post_init__(self) -> None:
        _check_least({"evaluate_every": self.every, "patience": self.patience}, 0)
        _check_least({"validation_cells": self.cells}, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingDataConfig:
    """Describe what training reads, and how.

    Attributes
    ----------
    workers : processes that prepare batches ahead; None for :func:`hela_store.training.data.loader_workers`
    variants : augmented variants 1 to this train beside the views as acquired; None for all that are stored
    """

    workers: int | None = None
    variants: int | None = None

    def __post_init__(self) -> None:
        _check_least({"workers": self.workers, "variants": self.variants}, 0)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Settings of adapters and of training parts of the encoder.

    Attributes
    ----------
    part : ``"decoder"`` trains low-rank adapters in the decoder; ``"encoder"`` trains adapters in the image encoder's
        blocks after ``cut`` and the mask decoder; ``"encoder-full"`` trains these blocks themselves
    cut : blocks whose stored tokens are read (``embed --cut``); 0 runs the whole encoder at every step
    rank : of the adapters
    conv : use Conv-LoRA adapters
    linear : adapt all linear layers of a block, not only the projections to q and v
    """

    part: str
    cut: int | None = None
    rank: int = RANK
    conv: bool = False
    linear: bool = False

    def __post_init__(self) -> None:
        if self.part not in ADAPT:
            raise RecipeError(f"adapt is {self.part!r}, expected one of {', '.join(ADAPT)}")
        if self.part in ENCODER and self.cut is None:
            raise RecipeError(
                "adapting the encoder needs cut: give --cut K, the number of its first layers that stay frozen, after "
                "`hela-store embed --cut K` has stored what comes out of them; --cut 0 needs nothing stored"
            )
        _check_adapters(self.part, vars(self))


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Name the cells of the training block that are labelled, where these are not all.

    No other label of the training and validation blocks is read then.

    Attributes
    ----------
    train : ids of the cells that give loss; empty for all cells of the training block, with the validation block as
        the judge
    held : ids of the cells that choose the step; empty for cross-validation over the cells of ``train``, after which
        all of them train for the number of steps that was best
    pick : how they were chosen, for the record
    """

    train: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    pick: str = ""

    def __post_init__(self) -> None:
        for name in ("train", "held"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        if twice := next((one for one, other in pairwise(self.cells) if one == other), None):
            raise RecipeError(f"cell {twice} is named twice in train_cells and held_cells; name each cell once")
        if self.held and not self.train:
            raise RecipeError(
                f"held_cells names {len(self.held)} cells and train_cells none; name the cells that train"
            )
        if len(self.train) == 1 and not self.held:
            raise RecipeError(
                "train_cells names one cell, which cannot both train and choose the step; name two or more"
            )

    @property
    def cells(self) -> tuple[str, ...]:
        """Every labelled cell, sorted; empty where the whole block is labelled."""
        return tuple(sorted(self.train + self.held))

    @property
    def is_crossed(self) -> bool:
        """Whether the step is chosen by cross-validation over cells."""
        return bool(self.train) and not self.held


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Describe how a decoder is fine-tuned.

    Attributes
    ----------
    prompt : ``"box"``, ``"point"``, ``"mask"``, ``"box+mask"``, ``"point+mask"``; or one decoder for several kinds:
        ``"all"`` of them, or ``"box-or-point"``
    seed : of batches and training prompts
    init : a fine-tuning run (id, its beginning or ``"latest"``) whose weights are the beginning; None for zero-shot
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    optimiser, prompts, loss, validation, data : sections
    adapt : None trains the mask decoder's own weights
    blind : never show an image: every embedding is the mean over all positions and views that train, in training and
        when the run is scored. What such a decoder scores is the floor that looking at the image has to beat
    budget : which cells are labelled, where these are not all
    errors_like : folder with label images of a tool. Mask prompts get the errors that these have where they overlap
        labelled training frames; None for the generic errors
    """

    prompt: str = "box"
    seed: int = 0
    init: str | None = None
    device: str = "auto"
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    adapt: AdaptConfig | None = None
    blind: bool = False
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    errors_like: str | None = None

    def __post_init__(self) -> None:
        if self.prompt not in TRAINING_PROMPTS:
            raise PromptError(f"prompt is {self.prompt!r}, expected one of {', '.join(TRAINING_PROMPTS)}")
        clicks, masks = self.prompts.clicks, self.prompts.masks
        kinds = " ".join(kinds_trained(self.prompt))
        if clicks > 1 and "point" not in kinds:
            raise RecipeError(f"clicks is {clicks}, but prompt {self.prompt!r} has no points to add clicks to")
        if masks != "best" and self.prompt not in ("point", *MIXES):
            raise RecipeError(f"masks is {masks!r}, but only a lone point has several; prompt is {self.prompt!r}")
        if self.blind and (self.adapt is not None or self.init is not None):
            raise RecipeError(
                "an image-blind decoder is trained from the one that came with the encoder; leave out adapt and init"
            )
        if self.errors_like is not None and "mask" not in kinds:
            raise RecipeError(f"errors_like says how mask prompts are drawn, but prompt is {self.prompt!r}; give mask")
        if self.errors_like is not None and self.budget.train:
            raise RecipeError("errors_like is fitted on all labelled training cells; leave it out, or train_cells")
        if self.adapt is not None and self.adapt.part in ENCODER and self.init is not None:
            raise RecipeError("init begins with a tuned decoder, an adapting encoder with its own; leave it out")

    @classmethod
    def of(cls, **choices: Any) -> FinetuneConfig:
        """Return the configuration with these settings, by flat name, and the defaults for all others.

        Raises
        ------
        RecipeError, PromptError
            A name that is unknown (the message gives the nearest one), or an impossible value.
        """
        check_names(choices, NAMES, "a fine-tuning")
        names = ("optimiser", "prompts", "loss", "validation", "data", "budget")
        parts = {name: section(choices, NAMES, name) for name in names}
        return cls(
            **section(choices, NAMES, ""),
            optimiser=OptimiserConfig(**parts["optimiser"]),
            prompts=PromptsConfig(**parts["prompts"]),
            loss=LossConfig(**parts["loss"]),
            validation=ValidationConfig(**parts["validation"]),
            data=TrainingDataConfig(**parts["data"]),
            budget=BudgetConfig(**parts["budget"]),
            adapt=_adapt(section(choices, NAMES, "adapt")),
        )

    def with_choices(self, **choices: Any) -> FinetuneConfig:
        """Return the configuration with some settings changed, by flat name; raises as :meth:`of`."""
        return FinetuneConfig.of(**self.flat() | choices)

    def flat(self) -> dict[str, Any]:
        """Return all settings by flat name.

        A run's ``config.json`` holds these. Names and order are part of the format of runs: do not change them, or
        interrupted runs are not continued and finished ones are trained again. ``blind``, ``errors_like`` and the
        cells of a budget came later: they are there only where they are set.
        """
        left = {name for name in ("blind", "errors_like") if not getattr(self, name)}
        left |= set() if self.budget.train else {"train_cells", "held_cells", "pick"}
        names = {name: path for name, path in NAMES.items() if name not in left}
        if self.adapt is not None:
            return flatten(self, names)
        own = flatten(self, {name: path for name, path in names.items() if not path.startswith("adapt.")})
        return {name: (own | NO_ADAPT)[name] for name in names}


NO_ADAPT: dict[str, Any] = {"adapt": None, "cut": None, "rank": RANK, "conv": False, "linear": False}
"""Flat settings where nothing is adapted."""


def paper_preset(config: FinetuneConfig) -> FinetuneConfig:
    """Return the study's way: Adam at lr 1e-5, one view and one random cell a step, SAM's own full window."""
    study = {"lr": 1e-5, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "ema": 0.0, "cells": 1, "window": 64}
    return config.with_choices(**study)


def adapter_of(config: FinetuneConfig) -> Adapter | None:
    """Return what a configuration adapts, None for the mask decoder itself."""
    from hela_store.sam.adapters import Adapter  # loads torch, which the help of commands does without

    adapt = config.adapt
    if adapt is None:
        return None
    if adapt.part == "decoder":
        return Adapter(part="decoder", rank=adapt.rank)
    assert adapt.cut is not None
    how = {"conv": adapt.conv, "linear": adapt.linear, "full": adapt.part == "encoder-full"}
    return Adapter(part="encoder", rank=adapt.rank, cut=adapt.cut, **how)


def _adapt(choices: Mapping[str, Any]) -> AdaptConfig | None:
    if choices.get("part") is not None:
        return AdaptConfig(**choices)
    # settings of adapters without adapters would be ignored without a word
    _check_adapters(None, {"cut": None, "rank": RANK, "conv": False, "linear": False} | dict(choices))
    return None


def _check_adapters(part: str | None, how: Mapping[str, Any]) -> None:
    _check_least({"rank": how["rank"]}, 1)
    for name in ("conv", "linear"):
        if how[name] and part != "encoder":
            raise RecipeError(f"{name} says how the encoder is adapted; it needs adapt = 'encoder'")
    if how["cut"] is not None and part not in ENCODER:
        raise RecipeError("cut says from which layer on the encoder is adapted; it needs adapt = 'encoder'")
    if how["rank"] != RANK and part not in ("decoder", "encoder"):
        raise RecipeError("rank is that of low-rank adapters; it needs adapt = 'decoder' or 'encoder'")


def _check_least(values: Mapping[str, int | None], least: int) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise RecipeError(f"{name} is {value}, expected {least} or more")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise RecipeError(f"{name} is {value}, expected a share, 0 to 1")
