"""`hela-store finetune`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted, percent
from hela_store.prompts.kinds import MIXED_PROMPTS, TRAINING_PROMPTS
from hela_store.training.config import ADAPT, MASKS, SCHEDULES, FinetuneConfig, paper_preset

from . import verdicts
from .help import RUN, Command, Several
from .options import (
    cache_dir,
    device_option,
    finetune_option,
    full_option,
    json_option,
    labels_version_option,
    store_option,
    training_options,
    typed,
)
from .output import (
    NOTHING,
    bars,
    echo_json,
    echo_scores,
    echo_table,
    note,
    note_in_domain,
    note_informed,
    note_reused,
    note_untrained,
    say,
)

if TYPE_CHECKING:
    from hela_store import FinetuneResult, Store
    from hela_store.training.guard import Change

CHANGE = ("prompt", "mean change", "95 % from", "to", "better for", "worse for", "verdict")

GROUPS = {
    "What is trained": ("store", "prompts", "adapt", "cut", "rank", "conv", "linear", "init", "preset", "blind"),
    "Training": ("steps", "lr", "warmup", "schedule", "ema", "accumulate", "cells", "variants", "seed", "patience"),
    "Loss and prompts": ("loss", "loss_weight", "loss_ramp", "masks", "clicks", "refine", "errors_like", "window"),
    "Validation": ("evaluate_every", "validation_cells"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command,
    groups=GROUPS,
    examples=(
        "hela-store finetune -s fluo --prompt box",
        "hela-store finetune -s fluo --prompt point --lr 1e-3 --steps 900",
    ),
)
@store_option
@labels_version_option
@click.option(
    "--prompt",
    "prompts",
    cls=Several,
    type=click.Choice(TRAINING_PROMPTS),
    multiple=True,
    default=(FinetuneConfig.prompt,),
    metavar="KIND...",
    help=f"Fine-tune a decoder for each of these prompts: {', '.join(MIXED_PROMPTS)}, separated by spaces. "
    "box-or-point: one decoder for bounding boxes and for clicks; all: one for all kinds. "
    f"[default: {FinetuneConfig.prompt}]",
)
@finetune_option("steps", "Train for N optimiser steps.", type=click.IntRange(1), metavar="N")
@finetune_option("lr", "Set the learning rate at its peak.", type=float)
@finetune_option("seed", "Set the random seed for batches and training prompts.", type=int)
@click.option(
    "--preset",
    type=click.Choice(["default", "paper"]),
    default="default",
    show_default=True,
    help="Choose a set of defaults; paper: the settings of a student study (Adam, lr 1e-5, one random cell per step, "
    "window 64).",
)
@finetune_option("cells", "Train on at most N cells per step.", type=click.IntRange(1), metavar="N")
@finetune_option(
    "window",
    "Read N embedding positions per side around a prompt: 8, 16, 32 or 64. [default: the encoder's]",
    type=int,
    metavar="N",
)
@finetune_option("warmup", "Raise the learning rate to its peak over N steps.", type=click.IntRange(0), metavar="N")
@training_options("evaluate_every")
@finetune_option("schedule", "Choose how the learning rate falls after its peak.", type=click.Choice(SCHEDULES))
@training_options("patience")
@finetune_option("accumulate", "Accumulate gradients over N views per step.", type=click.IntRange(1), metavar="N")
@finetune_option(
    "ema",
    "Average the weights over steps. 0.99 averages over about 100 steps, 0.9 over 10; 0: no average.",
    type=float,
    metavar="DECAY",
)
@finetune_option(
    "loss", "Choose the loss, such as dice+bce, dice+focal, boundary or hausdorff-distance.", metavar="NAME"
)
@finetune_option(
    "loss_weight", "Weight the boundary or Hausdorff term that is added to Dice + cross-entropy.", type=float
)
@finetune_option("loss_ramp", "Let that weight grow from 0 over this share of the steps.", type=float)
@finetune_option(
    "masks",
    "Train only the best of SAM's three masks for a single click, or all three.",
    type=click.Choice(MASKS),
)
@finetune_option(
    "clicks", "Train N passes with point prompts, one more click each.", type=click.IntRange(1), metavar="N"
)
@finetune_option(
    "refine", "Feed the logits back for a second pass in this share of the steps.", type=float, metavar="SHARE"
)
@finetune_option("init", f"Start from the weights of this fine-tuning. RUN is {RUN}.", metavar="RUN")
@training_options("validation_cells", "workers")
@finetune_option(
    "variants", "Train on N augmented variants per view. [default: all stored]", type=click.IntRange(0), metavar="N"
)
@finetune_option(
    "adapt",
    "Train low-rank adapters (LoRA) in the decoder or in the encoder's last layers, or those layers themselves.",
    type=click.Choice(ADAPT),
)
@finetune_option(
    "cut",
    "Freeze the first K encoder layers; `embed --cut K` stores their tokens.",
    type=click.IntRange(0),
    metavar="K",
)
@finetune_option("rank", "Set the rank of the adapters.", type=int, metavar="N")
@finetune_option("conv", "Use Conv-LoRA: adapters with convolutions of several scales.", is_flag=True)
@finetune_option("linear", "Adapt all linear maps of a layer, not only those of queries and values.", is_flag=True)
@click.option(
    "--blind",
    is_flag=True,
    default=None,
    help="Never show an image: train on the mean embedding. Decoders that see the image have to beat its score.",
)
@click.option(
    "--errors-like",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="MASKS",
    help="Make mask prompts with errors like those that the masks in this folder have on labelled training frames.",
)
@device_option
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write logs for TensorBoard into this folder.",
)
@click.option("--fresh", is_flag=True, help="Train again, even if such a run is finished or was interrupted.")
@full_option
@json_option
def finetune(
    store: Store,
    prompts: tuple[str, ...],
    preset: str,
    tensorboard: Path | None,
    fresh: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Fine-tune the mask decoder on stored embeddings. It prints whether that helped on the validation frames."""
    import hela_store as hs

    note_untrained(store)
    note_in_domain(store)
    note_informed(store)
    results = []
    configs = [_config(prompt, preset, choices) for prompt in dict.fromkeys(prompts)]
    for config in configs:
        how: dict[str, Any] = {"resume": not fresh, "tensorboard": tensorboard, "cache_dir": cache_dir()}
        results.append(hs.finetune(store, config, progress=bars, **how))
        if results[-1].reused:
            note_reused(results[-1].run)
        if not as_json:
            _echo(store, results[-1])
    if as_json:
        found = [result.to_json() for result in results]
        echo_json(found if len(found) > 1 else found[0])


def _config(prompt: str, preset: str, choices: dict[str, Any]) -> FinetuneConfig:
    config = FinetuneConfig.of(prompt=prompt)
    config = paper_preset(config) if preset == "paper" else config
    if choices["errors_like"] is not None:
        choices = choices | {"errors_like": str(choices["errors_like"].absolute())}
    return config.with_choices(**{name: value for name, value in choices.items() if value is not None})


def _harm(result: FinetuneResult) -> str:
    if result.best_step == 0:
        return "no step was better than what it began with"
    return "worse than zero-shot" if result.verdict == "worse" else "no higher than zero-shot on the judging tracks"


def _standing(store: Store, result: FinetuneResult) -> str:
    from hela_store.errors import HelaError
    from hela_store.runs.default import best_run, default_run
    from hela_store.runs.folder import load_run

    if result.adapts_encoder:
        return f"To score it, embed with the adapted encoder: {typed(f'embed --adapter {result.run}')}"
    if result.blind:
        scored = typed(f"evaluate --run {result.run} --split val")
        return f"It never saw an image, so it is never the default run. To score it: {scored}"
    if not result.accepted:
        return f"This is not the default run: {_harm(result)}."
    try:
        default = default_run(store.path, store.key)
        best, iou = best_run(store.path, load_run(store.path, result.run))
    except HelaError as error:  # another run is damaged: this one is published all the same
        return f"The default run cannot be determined: {error}"
    if default is not None and default.id != result.run:
        return f"This is not the default run: {default.id} began later. To use this one, name it with --run."
    higher = f", but {best.id} is higher on the same validation cells, {iou:.3f}" if best.id != result.run else ""
    return f"This is now the default run{higher}."


def _change(kind: str, change: FinetuneResult | Change) -> list[str]:
    ends = [None if math.isnan(end) else end for end in (change.low, change.high)]
    numbers = [NOTHING if end is None else f"{end:+.3f}" for end in (change.mean_change, *ends)]
    return [kind, *numbers, percent(change.better, 0), percent(change.worse, 0), change.verdict or NOTHING]


def _echo(store: Store, result: FinetuneResult) -> None:
    zero, tuned = result.zero_shot, result.tuned
    free = {"n": zero.n, "mean_iou": zero.image_free_iou, "mean_dice": zero.image_free_dice}
    say(f"run {result.run}, validation frames, prompt {result.prompt}")
    say(result.units)
    rows = [("naive guess", free), ("zero-shot", zero.to_json()), ("fine-tuned", tuned.to_json())]
    hidden = ("image_free_iou", "image_free_dice")
    echo_scores("decoder", [(name, {k: v for k, v in row.items() if k not in hidden}) for name, row in rows])
    if len(result.by_kind) > 1:
        echo_scores("fine-tuned, by prompt", [(kind, score.to_json()) for kind, score in result.by_kind.items()])
    changes: dict[str, FinetuneResult | Change] = {result.prompt: result}
    changes |= result.kinds if len(result.kinds) > 1 else {}
    frames = counted(result.frames, "frame")
    say(f"change of IoU, the same prompts before and after; {frames}; best step {result.best_step}")
    echo_table(CHANGE, [_change(kind, change) for kind, change in changes.items()])
    if result.errors:
        say(f"Mask prompts were drawn with {result.errors}.")
    say(_standing(store, result))
    verdicts.fine_tuning(result)
    if not result.accepted and not result.blind:
        note(f"WARNING: FINE-TUNING DID NOT HELP: {_harm(result)}")
