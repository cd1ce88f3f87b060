"""`hela-store demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .help import Command
from .options import STORES, json_option
from .output import UNTRAINED, bars, echo_json, echo_table, note, relative

if TYPE_CHECKING:
    from hela_store import DemoReport

COLUMNS = (
    "prompt",
    "cells",
    "naive guess, IoU",
    "zero-shot IoU",
    "fine-tuned IoU",
    "zero-shot Dice",
    "fine-tuned Dice",
)
FIELDS = ("prompt", "n", "image_free_iou", "zero_shot_iou", "tuned_iou", "zero_shot_dice", "tuned_dice")


@click.command(cls=Command, examples=("hela-store demo", "hela-store demo --out /tmp/demo"))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(STORES, "demo"),
    show_default=True,
    metavar="DIR",
    help="Make the store in this folder.",
)
@json_option
def demo(out: Path, as_json: bool) -> None:
    """Try embedding, fine-tuning and scoring, offline.

    It takes at most five minutes. It makes a store of a synthetic sequence, embeds it, fine-tunes for boxes, points and
    masks, compares with zero-shot and asks one SQL query. A second demo keeps what the first finished; delete the
    folder to start over.
    """
    import hela_store as hs

    report = hs.demo(out.absolute(), bars)
    if as_json:
        echo_json(report.to_json())
    else:
        _echo(report, relative(Path(report.store)))


def _echo(report: DemoReport, store: str) -> None:
    if report.reused:
        note(f"{report.reused} runs of an earlier demo were kept; delete {store} to start over")
    click.echo("Test frames, each decoder fine-tuned for the prompt it is scored with:\n")
    rows = [asdict(row) for row in report.rows]
    echo_table(COLUMNS, [[row[field] for field in FIELDS] for row in rows])
    if not report.trained:
        note(UNTRAINED)
    click.echo(f'\nhela-store sql -s {store} "{report.query}"\n')
    echo_table(list(report.answer[0]), [list(row.values()) for row in report.answer])
    click.echo(
        f"\nEverything lies in {store}: store.toml (the recipe), data/ (the synthetic frames), arrays.zarr, runs/, "
        "catalog.duckdb.\nNext:\n"
        f"  hela-store info -s {store}\n"
        f'  hela-store sql -s {store} "SELECT * FROM cell_metrics ORDER BY iou LIMIT 10"\n'
        "  hela-store new NAME --dataset DIR        # your own frames\n"
        "  hela-store embed -s NAME && hela-store finetune -s NAME --prompt box && hela-store evaluate -s NAME"
    )
