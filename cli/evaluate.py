"""`hela-store evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hela_store.evaluation.config import FOREIGN, EvaluateConfig
from hela_store.prompts.kinds import PROMPT_KINDS
from hela_store.recipe.splits import SPLITS
from hela_store.segmentation.config import FORMS, DetectedConfig

from . import verdicts
from .help import RUN, Command, Several
from .options import (
    default_checkpoint,
    device_option,
    full_option,
    json_option,
    labels_version_option,
    note_scorings,
    store_option,
)
from .output import (
    bars,
    echo_facts,
    echo_json,
    echo_scores,
    echo_sequences,
    echo_subsets,
    echo_table,
    named_facts,
    note,
    note_in_domain,
    note_pending,
    note_reused,
    note_untrained,
    say,
)

if TYPE_CHECKING:
    from hela_store import EvaluateResult, Store
    from hela_store.segmentation.scores import DetectedResult

GROUPS = {
    "What is scored": ("store", "run", "zero_shot", "split", "window"),
    "Prompts from the ground truth": ("prompts", "prompt_seeds", "clicks", "robustness", "foreign"),
    "Your own prompts": ("prompt_table", "prompt_masks"),
    "Prompts from a detector": ("detector", "form", "recover"),
}
"""Options by the heading of the help."""


@click.command(
    cls=Command,
    groups=GROUPS,
    examples=(
        "hela-store evaluate -s fluo --zero-shot --prompt box --split val",
        "hela-store evaluate -s fluo --run latest --prompt box --split val",
    ),
)
@store_option
@labels_version_option
@click.option(
    "--run",
    metavar="RUN",
    help=f"Score this fine-tuning. RUN is {RUN}. [default: the default run, which `info` names]",
)
@click.option("--zero-shot", is_flag=True, help="Score the decoder that the encoder came with.")
@click.option(
    "--prompt",
    "prompts",
    cls=Several,
    multiple=True,
    default=EvaluateConfig.prompts,
    show_default=True,
    metavar="KIND...",
    help=f"Give these prompts, separated by spaces. Made from the ground truth: {', '.join(PROMPT_KINDS)}; box@0.1 is "
    "off by 10 %. detected: cells are found without labels, see `hela-store detect`.",
)
@click.option(
    "--prompt-seeds",
    type=click.IntRange(1, 100),
    default=EvaluateConfig.prompt_seeds,
    show_default=True,
    help="Set how many random prompts are made per cell and prompt kind.",
)
@click.option(
    "--prompts",
    "prompt_table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read your own boxes or points from a .parquet or .csv file.",
)
@click.option(
    "--prompt-masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read your own mask prompts from a folder of label images.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default=EvaluateConfig.split,
    show_default=True,
    help="Choose the frames to score. Every scoring of test frames is counted.",
)
@click.option("--clicks", type=click.IntRange(2), metavar="N", help="Also score points with N - 1 corrective clicks.")
@click.option(
    "--robustness",
    is_flag=True,
    help="Score curves: boxes with growing error, clicks from the edge to the middle, and mask prompts of growing IoU.",
)
@click.option(
    "--foreign",
    type=click.Choice(FOREIGN),
    is_flag=False,
    flag_value=FOREIGN[0],
    help="Sanity check: decode with embeddings that are turned by 180 degrees, their mean, or those of another frame "
    f"or sequence; scores should collapse. --foreign alone is {FOREIGN[0]}.",
)
@click.option(
    "--window",
    type=int,
    metavar="N",
    help="Read N embedding positions per side around a prompt: 8, 16, 32 or 64. [default: as trained]",
)
@click.option(
    "--detector",
    default=DetectedConfig.detector,
    metavar="RUN",
    show_default=True,
    help="Find cells with this detector, or use the cells of this `detect run`, for --prompt detected.",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    default=DetectedConfig.form,
    show_default=True,
    help="Prompt the decoder with this for each cell that was found.",
)
@click.option(
    "--recover",
    is_flag=True,
    help="Also look for cells that were found in the frames before and after but not in this one.",
)
@click.option("--fresh", is_flag=True, help="Score again, even if the same scoring is already a finished run.")
@device_option
@full_option
@json_option
def evaluate(
    store: Store,
    run: str | None,
    zero_shot: bool,
    prompts: tuple[str, ...],
    as_json: bool,
    **choices: Any,
) -> None:
    """Score every cell of the test or validation frames. Prompts, masks and scores are kept as a run."""
    if run and zero_shot:
        raise click.UsageError("--run and --zero-shot exclude each other")
    score = _evaluate_detected if "detected" in prompts else _evaluate_drawn
    score(store, lambda form: None if zero_shot else run or default_checkpoint(store, form), prompts, choices, as_json)


FROM_TRUTH = ("prompt_seeds", "prompt_table", "prompt_masks", "clicks", "robustness", "foreign")
"""Options of prompts that are made from the truth or given by the user."""
FROM_DETECTOR = ("detector", "form", "recover")
"""Options of prompts that a detector finds."""
Checkpoint = Callable[[str | None], str | None]
"""Returns the run to score, by the form of detected prompts; None for zero-shot."""


def _evaluate_drawn(
    store: Store, checkpoint: Checkpoint, prompts: tuple[str, ...], choices: dict[str, Any], as_json: bool
) -> None:
    import hela_store as hs

    if idle := _given(*FROM_DETECTOR):
        raise click.UsageError(f"{idle[0]} says how detected prompts are made; give --prompt detected, too")
    if choices["robustness"] and (idle := _given("prompts", "clicks")):
        raise click.UsageError(f"--robustness has kinds of its own; leave {idle[0]} out")
    note_untrained(store)
    note_in_domain(store)
    kinds = (*prompts, f"point-clicks@{choices['clicks']}") if choices["clicks"] else prompts
    how = {name: value for name, value in choices.items() if name not in ("clicks", "fresh", *FROM_DETECTOR)}
    if _given("prompts") and (idle := _given("prompt_table", "prompt_masks")):
        raise click.UsageError(f"{idle[0]} brings prompts of its own; leave --prompt out")
    config = EvaluateConfig(prompts=kinds, **how)
    result = hs.evaluate(store, checkpoint(None), config, fresh=choices["fresh"], progress=bars)
    for line in result.own_prompts.notes() if result.own_prompts else ():
        note(line)
    note_outcome(result)
    if as_json:
        echo_json(result.to_json())
        note_scorings(store)
    else:
        _echo(store, result, config.prompt_seeds)
        verdicts.evaluation(store, result)


def note_outcome(result: EvaluateResult | DetectedResult) -> None:
    """Say where the run is an earlier one, and where the catalog has to be read later."""
    if result.reused:
        note_reused(result.run)
    if result.pending:
        note_pending(result.run, result.pending)


def _given(*names: str) -> list[str]:
    """Return which of the options were given, be it with their default value, as they are written."""
    context = click.get_current_context()
    given = {name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return [option.opts[0] for option in context.command.params if option.name in given]


def _evaluate_detected(
    store: Store, checkpoint: Checkpoint, prompts: tuple[str, ...], choices: dict[str, Any], as_json: bool
) -> None:
    from hela_store.sam.registry import in_domain
    from hela_store.segmentation.evaluate import evaluate_detected

    if prompts != ("detected",):
        raise click.UsageError("--prompt detected is scored on its own, without other kinds")
    if idle := _given(*FROM_TRUTH):
        raise click.UsageError(f"{idle[0]} is not for --prompt detected; leave it out")
    note_untrained(store)
    note_in_domain(store)
    how = {name: value for name, value in choices.items() if name not in ("fresh", *FROM_TRUTH)}
    config = DetectedConfig(checkpoint=checkpoint(choices["form"]), **how)
    result = evaluate_detected(store, config, fresh=choices["fresh"], progress=bars)
    note_outcome(result)
    if as_json:
        echo_json(result.to_json() | {"in_domain": in_domain(store.recipe)})
        note_scorings(store)
        return
    facts = {name: value for name, value in vars(result).items() if isinstance(value, str | int | float)}
    hidden = ("pending", "reused", *(() if config.recover else ("recovered", "recovered_right", "recall_before")))
    facts = {name: value for name, value in facts.items() if name not in hidden}
    told = ("ece", "brier_skill", "auroc", "aurc", "too_few", "flagged", "failures", "caught")
    said = {name: value for name, value in (result.calibration or {}).items() if name in told}
    facts |= {f"calibration: {name}": value for name, value in said.items() if value not in (None, "")}
    echo_facts(named_facts(facts))
    echo_subsets({"detected": result.subsets})
    if result.sequences is not None:
        echo_sequences(result.sequences)
    if choices["split"] in ("test", "all"):
        note_scorings(store, show=click.echo)
    verdicts.detected(result)


def _echo(store: Store, result: EvaluateResult, seeds: int) -> None:
    say(f"run {result.run}, checkpoint {result.checkpoint}, split {result.split}")
    echo_scores("prompt", [(kind, score.to_json()) for kind, score in result.prompts.items()])
    if seeds > 1 and result.own_prompts is None:
        click.echo(f"n counts prompts: up to {seeds} for each cell")
    failures = {kind: score.failures for kind, score in result.prompts.items() if score.failures is not None}
    names = list(next(iter(failures.values()), {}))
    if failures:
        echo_table(["failures", *names], [[kind, *found.values()] for kind, found in failures.items()])
    echo_subsets(result.subsets)
    say(f"protocol: {result.protocol}")
    if result.same_nuclei:
        say(result.same_nuclei)
    if result.informed:
        say(f"the encoder: {result.informed}")
    if result.split in ("test", "all"):
        note_scorings(store, show=click.echo)
