"""`hela-store evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hela_store.types import HEADLINE_PROMPTS, PROMPT_KINDS

from .options import device_option, json_option, store_option
from .output import bars, echo_json, echo_scores, echo_table, note, note_untrained

if TYPE_CHECKING:
    from hela_store import EvaluateResult, Store


@click.command()
@store_option
@click.option(
    "--run",
    metavar="RUN",
    help="Fine-tuning run to score: an id, its beginning, or latest. [default: the latest not worse than zero-shot]",
)
@click.option("--zero-shot", is_flag=True, help="Score the decoder the encoder came with.")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    default=HEADLINE_PROMPTS,
    show_default=True,
    metavar="KIND",
    help=f"Prompts made from the truth: {', '.join(PROMPT_KINDS)}; box@0.1 has a jitter of 10 %.",
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
@click.option("--clicks", type=click.IntRange(2), metavar="N", help="Score points with N - 1 corrective clicks, too.")
@click.option("--robustness", is_flag=True, help="Curves: box jitter, click place, the mask prompt's own IoU.")
@click.option("--foreign", is_flag=True, help="Control: decode with another frame's embeddings.")
@click.option("--window", type=int, metavar="N", help="Embedding positions a prompt reads: 8, 16, 32 or 64.")
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
    clicks: int | None,
    robustness: bool,
    foreign: bool,
    window: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Score every cell of a split and keep prompts, masks and scores as a new run."""
    import hela_store as hs

    if run and zero_shot:
        raise click.UsageError("--run and --zero-shot exclude each other")
    note_untrained(store)
    config = hs.EvaluateConfig(
        split=split,
        prompts=(*prompts, f"point-clicks@{clicks}") if clicks else prompts,
        prompt_seeds=prompt_seeds,
        prompt_table=prompt_table,
        prompt_masks=prompt_masks,
        robustness=robustness,
        foreign=foreign,
        window=window,
        device=device,
    )
    result = hs.evaluate(store, None if zero_shot else run or _default(store), config, progress=bars)
    if as_json:
        echo_json(result.to_json())
    else:
        _echo(result)


def _default(store: Store) -> str | None:
    from hela_store.guard import default_run

    run = default_run(store.path, store.key)
    found = "scoring zero-shot: there is no fine-tuning yet that is not worse"
    note(found if run is None else f"scoring the default run, {run.id}")
    return None if run is None else run.id


def _echo(result: EvaluateResult) -> None:
    click.echo(f"run {result.run}, checkpoint {result.checkpoint}, split {result.split}")
    echo_scores("prompt", [(kind, score.to_json()) for kind, score in result.prompts.items()])
    failures = {kind: score.failures for kind, score in result.prompts.items() if score.failures is not None}
    names = list(next(iter(failures.values()), {}))
    echo_table(["failures", *names], [[kind, *found.values()] for kind, found in failures.items()])
    subsets = [(f"{kind}, {name}", s) for kind, part in result.subsets.items() for name, s in part.items()]
    echo_scores("hard cells", [(name, asdict(score)) for name, score in subsets])
    if result.split in ("test", "all"):
        click.echo(f"this store's test split has been scored {result.test_scorings} times")
