"""`hela-store evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.types import HEADLINE_PROMPTS, PROMPT_KINDS

from .options import device_option, json_option, store_option
from .output import bars, echo_facts, echo_json, echo_scores, note, note_untrained

if TYPE_CHECKING:
    from hela_store import EvaluateResult, Store


@click.command()
@store_option
@click.option(
    "--run", metavar="RUN", help="Fine-tuning run to score: an id, its beginning, or latest. [default: latest]"
)
@click.option("--zero-shot", is_flag=True, help="Score the decoder the encoder came with.")
@click.option(
    "--prompt",
    "prompts",
    type=click.Choice((*PROMPT_KINDS, "detected")),
    multiple=True,
    default=HEADLINE_PROMPTS,
    show_default=True,
    help="Prompts made from the truth; detected: found without it, see `hela-store detect`.",
)
@click.option(
    "--prompt-seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Draws a cell and kind."
)
@click.option(
    "--prompts",
    "prompt_table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Own boxes or points, .parquet or .csv.",
)
@click.option(
    "--prompt-masks", type=click.Path(path_type=Path), metavar="DIR", help="Own masks: a folder of label images."
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="test",
    show_default=True,
    help="Frames to score.",
)
@click.option("--foreign", is_flag=True, help="Control: decode with another frame's embeddings.")
@click.option("--window", type=int, metavar="N", help="Embedding positions a prompt reads: 8, 16, 32 or 64.")
@click.option("--detector", default="latest", metavar="RUN", help="With --prompt detected: a detector, or detections.")
@click.option("--form", type=click.Choice(["box", "point", "mask"]), default="box", help="What of a detection.")
@click.option("--recover", is_flag=True, help="Ask for cells that only neighbouring frames show.")
@device_option
@json_option
def evaluate(
    store: Store,
    run: str | None,
    zero_shot: bool,
    prompts: tuple[str, ...],
    prompt_seeds: int,
    prompt_table: Path | None,
    prompt_masks: Path | None,
    split: str,
    foreign: bool,
    window: int | None,
    detector: str,
    form: str,
    recover: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score every cell of a split and keep prompts, masks and scores as a new run."""
    import hela_store as hs

    if run and zero_shot:
        raise click.UsageError("--run and --zero-shot exclude each other")
    note_untrained(store)
    checkpoint = None if zero_shot else run or _latest(store)
    how: dict[str, Any] = {"split": split, "window": window, "device": device}
    if "detected" in prompts:
        how |= {"detector": detector, "form": form, "recover": recover}
        _evaluate_detected(store, checkpoint, prompts, how, as_json)
        return
    own: dict[str, Any] = {"prompt_table": prompt_table, "prompt_masks": prompt_masks}
    config = hs.EvaluateConfig(prompts=prompts, prompt_seeds=prompt_seeds, foreign=foreign, **own, **how)
    result = hs.evaluate(store, checkpoint, config, progress=bars)
    if as_json:
        echo_json(result.to_json())
    else:
        _echo(result)


def _evaluate_detected(
    store: Store, checkpoint: str | None, prompts: tuple[str, ...], how: dict[str, Any], as_json: bool
) -> None:
    from hela_store.detect.score import DetectedConfig, evaluate_detected

    if prompts != ("detected",):
        raise click.UsageError("--prompt detected is scored on its own, without other kinds")
    result = evaluate_detected(store, DetectedConfig(checkpoint=checkpoint, **how), progress=bars).to_json()
    if as_json:
        echo_json(result)
    else:
        echo_facts([(name.replace("_", " "), str(value)) for name, value in result.items() if value is not None])


def _latest(store: Store) -> str | None:
    from hela_store.runs import list_runs

    tuned = list_runs(store.path, "finetune")
    note(
        f"scoring the latest fine-tuning, {tuned[-1].id}" if tuned else "scoring zero-shot: there is no fine-tuning yet"
    )
    return tuned[-1].id if tuned else None


def _echo(result: EvaluateResult) -> None:
    click.echo(f"run {result.run}, checkpoint {result.checkpoint}, split {result.split}")
    echo_scores("prompt", [(kind, score.to_json()) for kind, score in result.prompts.items()])
    if result.split in ("test", "all"):
        click.echo(f"this store's test split has been scored {result.test_scorings} times")
