"""`hela-store baseline`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hela_store.baselines.config import ClassicalConfig, UnetConfig
from hela_store.prompts.kinds import IMAGE_FREE_PROMPTS
from hela_store.recipe.splits import SPLITS

from . import verdicts
from .help import Command, Group, Several
from .options import (
    device_option,
    full_option,
    json_option,
    labels_version_option,
    note_scorings,
    setting_option,
    store_option,
)
from .output import (
    bars,
    echo_json,
    echo_scores,
    echo_sequences,
    echo_subsets,
    echo_table,
    note_pending,
    note_reused,
    say,
)

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.baselines.rows import BaselineResult


UNET = vars(UnetConfig())
"""Settings of a U-Net, with their defaults."""


fresh_option = click.option("--fresh", is_flag=True, help="Make another run, even if the same one is finished.")
seeds_option = click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Make N runs, of this seed and the next ones; every one is printed beside the mean.",
)


@click.group(cls=Group)
def baseline() -> None:
    """Score simple methods to compare a fine-tuned decoder with. Each result becomes a run.

    These methods see only the frames of the store, while an encoder was trained on many other images.
    """


@baseline.command(cls=Command, examples=("hela-store baseline classical -s fluo",))
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default=ClassicalConfig.split,
    show_default=True,
    help="Choose the frames to score.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=ClassicalConfig.budget,
    show_default=True,
    help="Try N sets of parameters.",
)
@click.option(
    "--seed", type=int, default=ClassicalConfig.seed, show_default=True, help="Set the random seed of the search."
)
@seeds_option
@fresh_option
@store_option
@labels_version_option
@full_option
@json_option
def classical(store: Store, split: str, budget: int, seed: int, seeds: int, fresh: bool, as_json: bool) -> None:
    """Find cells with a threshold and a watershed.

    The parameters are searched on the training frames and chosen on the validation frames.
    """
    from hela_store.baselines.classical import classical as run

    configs = [ClassicalConfig(split=split, budget=budget, seed=seed + i) for i in range(seeds)]
    _echo(store, [run(store, config, fresh=fresh, progress=bars) for config in configs], as_json)


@baseline.command(cls=Command, examples=("hela-store baseline unet -s fluo --steps 800 --seed 1",))
@click.option(
    "--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Choose the frames to score."
)
@setting_option(UNET, "steps", "Train for N optimiser steps.", type=click.IntRange(1), metavar="N")
@click.option(
    "--lr",
    type=float,
    help="Set the learning rate at its peak. [default: 3e-4, 1e-3 or 3e-3, chosen on the validation frames]",
)
@setting_option(UNET, "seed", "Set the random seed for weights and crops.", type=int)
@setting_option(UNET, "workers", "Prepare batches in N processes.", type=click.IntRange(0), metavar="N")
@seeds_option
@fresh_option
@device_option
@store_option
@labels_version_option
@full_option
@json_option
def unet(store: Store, split: str, seeds: int, fresh: bool, as_json: bool, **choices: Any) -> None:
    """Train MONAI's U-Net on the training frames. The same command resumes.

    The weights are chosen on the validation frames.
    """
    from hela_store.baselines.unet import choose_rate
    from hela_store.baselines.unet import unet as run

    config = UnetConfig(**{name: value for name, value in choices.items() if value is not None})
    config, rates = (config, None) if choices["lr"] else choose_rate(store, config, progress=bars)
    configs = [replace(config, seed=config.seed + i) for i in range(seeds)]
    how: dict[str, Any] = {"split": split, "rates": rates, "fresh": fresh, "progress": bars}
    _echo(store, [run(store, one, **how) for one in configs], as_json)


@baseline.command("image-free", cls=Command, examples=("hela-store baseline image-free -s fluo --prompt box",))
@click.option(
    "--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Choose the frames to score."
)
@click.option(
    "--prompt",
    "prompts",
    cls=Several,
    type=click.Choice(IMAGE_FREE_PROMPTS),
    multiple=True,
    default=IMAGE_FREE_PROMPTS,
    metavar="KIND...",
    help=f"Score these prompts: {', '.join(IMAGE_FREE_PROMPTS)}, separated by spaces. [default: all]",
)
@click.option(
    "--prompt-seeds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Set how many random prompts are made per cell and prompt kind.",
)
@fresh_option
@store_option
@labels_version_option
@full_option
@json_option
def image_free(
    store: Store, split: str, prompts: tuple[str, ...], prompt_seeds: int, fresh: bool, as_json: bool
) -> None:
    """Score guesses that never look at the image.

    The guess is an ellipse in the box, a disc at the click, or the mask prompt itself.
    """
    from hela_store.baselines.image_free import image_free as run

    how: dict[str, Any] = {"split": split, "prompts": prompts, "prompt_seeds": prompt_seeds}
    _echo(store, [run(store, **how, fresh=fresh, progress=bars)], as_json)


def _echo(store: Store, results: Sequence[BaselineResult], as_json: bool) -> None:
    for result in results:
        if result.reused:
            note_reused(result.run)
        if result.pending:
            note_pending(result.run, result.pending)
    note_scorings(store)
    if as_json:
        found = [result.to_json() for result in results]
        echo_json(found if len(found) > 1 else found[0])
        return
    for result in results:
        click.echo(f"run {result.run}, split {result.split}")
        if spent := result.spent():
            say(spent)
        echo_scores("prompt", list(result.prompts.items()))
        echo_subsets(result.subsets)
        if result.sequences is not None:
            echo_sequences(result.sequences)
    if len(results) > 1:
        _echo_seeds(results)
    verdicts.baseline(store, results[0].split)


def _echo_seeds(results: Sequence[BaselineResult]) -> None:
    """Print the mean over the seeds, and every seed as a number of its own."""
    rows = []
    for kind in results[0].prompts:
        values = [result.prompts[kind]["mean_iou"] for result in results]
        rows.append([kind, sum(values) / len(values), *values])
    echo_table(["prompt", "mean IoU over seeds", *(f"seed {i}" for i in range(1, len(results) + 1))], rows)
