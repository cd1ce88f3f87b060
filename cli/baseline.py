"""`hela-store baseline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.prompts.kinds import IMAGE_FREE_PROMPTS
from hela_store.recipe.splits import SPLITS

from . import verdicts
from .help import Command
from .options import device_option, full_option, json_option, note_scorings, setting_option, store_option
from .output import bars, echo_json, echo_scores, echo_sequences, echo_subsets, note_pending

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.baselines.rows import BaselineResult


UNET = vars(UnetConfig())
"""Settings of a U-Net, with their defaults."""


@click.group()
def baseline() -> None:
    """Score the methods that a fine-tuned decoder has to beat; each becomes a run."""


@baseline.command(cls=Command, examples=("hela-store baseline classical -s fluo",))
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default=ClassicalConfig.split,
    show_default=True,
    help="Choose the block of frames to score.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=ClassicalConfig.budget,
    show_default=True,
    help="Try this many sets of parameters.",
)
@click.option(
    "--seed", type=int, default=ClassicalConfig.seed, show_default=True, help="Set the random seed of the search."
)
@store_option
@full_option
@json_option
def classical(store: Store, split: str, budget: int, seed: int, as_json: bool) -> None:
    """Find cells with a threshold and a watershed, searched on train and chosen on val."""
    from hela_store.baselines.classical import classical as run

    config = ClassicalConfig(split=split, budget=budget, seed=seed)
    _echo(store, run(store, config, progress=bars), as_json)


@baseline.command(cls=Command, examples=("hela-store baseline unet -s fluo --steps 800 --seed 1",))
@click.option(
    "--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Choose the block of frames to score."
)
@setting_option(UNET, "steps", "Train for N optimiser steps.", type=click.IntRange(1), metavar="N")
@setting_option(UNET, "lr", "Set the learning rate at its peak.", type=float)
@setting_option(UNET, "seed", "Set the random seed for weights and crops.", type=int)
@setting_option(UNET, "workers", "Prepare batches in N processes.", type=click.IntRange(0), metavar="N")
@device_option
@store_option
@full_option
@json_option
def unet(store: Store, split: str, as_json: bool, **choices: Any) -> None:
    """Train MONAI's U-Net on train and choose its weights on val. The same command resumes."""
    from hela_store.baselines.unet import unet as run

    given = {name: value for name, value in choices.items() if value is not None}
    _echo(store, run(store, UnetConfig(**given), split=split, progress=bars), as_json)


@baseline.command("image-free", cls=Command, examples=("hela-store baseline image-free -s fluo --prompt box",))
@click.option(
    "--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Choose the block of frames to score."
)
@click.option(
    "--prompt",
    "prompts",
    type=click.Choice(IMAGE_FREE_PROMPTS),
    multiple=True,
    default=IMAGE_FREE_PROMPTS,
    help="Score this prompt; repeat for several. [default: all]",
)
@click.option(
    "--prompt-seeds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Set how many random prompts are drawn per cell and prompt kind.",
)
@store_option
@full_option
@json_option
def image_free(store: Store, split: str, prompts: tuple[str, ...], prompt_seeds: int, as_json: bool) -> None:
    """Score prompts alone, without the image: an ellipse in the box, a disc at the click, the mask itself."""
    from hela_store.baselines.image_free import image_free as run

    _echo(store, run(store, split=split, prompts=prompts, prompt_seeds=prompt_seeds, progress=bars), as_json)


def _echo(store: Store, result: BaselineResult, as_json: bool) -> None:
    if result.pending:
        note_pending(result.run, result.pending)
    note_scorings(store)
    if as_json:
        echo_json(result.to_json())
        return
    click.echo(f"run {result.run}, split {result.split}")
    echo_scores("prompt", list(result.prompts.items()))
    echo_subsets(result.subsets)
    if result.sequences is not None:
        echo_sequences(result.sequences)
    verdicts.next_step(f"evaluate --split {result.split}")
