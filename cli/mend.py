"""`hela-store mend`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.mending.config import FORMS, TRAINED, MendConfig

from . import verdicts
from .help import Command
from .options import default_checkpoint, device_option, json_option, note_scorings, store_option
from .output import bars, echo_json, echo_table, note, note_reused, note_untrained, relative

if TYPE_CHECKING:
    from hela_store import MendReport, Store


@click.command(
    cls=Command,
    examples=(
        "hela-store mend cellpose_masks -s fluo --out mended",
        "hela-store mend cellpose_masks -s fluo --out mended --split-merge",
    ),
)
@click.argument("masks", type=click.Path(path_type=Path), metavar="MASKS")
@store_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write label images of the same names into this folder, which must not be there yet.",
)
@click.option(
    "--run",
    "checkpoint",
    metavar="RUN",
    help="Use the decoder of this fine-tuning. [default: the default run for the prompt]",
)
@click.option("--zero-shot", is_flag=True, help="Use the decoder that the encoder came with.")
@click.option(
    "--prompt",
    type=click.Choice(FORMS),
    default=MendConfig.prompt,
    show_default=True,
    help="Choose what of a mask the decoder is given.",
)
@click.option("--split-merge", is_flag=True, help="Apply the proposed splits and merges, too.")
@device_option
@json_option
def mend(store: Store, masks: Path, zero_shot: bool, as_json: bool, **choices: Any) -> None:
    """Make the masks of another tool better, and keep those where a gain is doubtful.

    MASKS is a folder of label images: TIFF or PNG files with the names of the store's frames, 0 background and one
    number a cell. Every mask keeps its number.
    """
    import hela_store as hs

    if zero_shot and choices["checkpoint"]:
        raise click.UsageError("--run and --zero-shot exclude each other")
    note_untrained(store)
    wanted = TRAINED[choices["prompt"]]
    choices["checkpoint"] = None if zero_shot else choices["checkpoint"] or default_checkpoint(store, wanted)
    report = hs.mend(store, masks, MendConfig(**choices), progress=bars)
    if report.reused:
        note_reused(report.run)
    note_scorings(store)
    for text in report.notes:
        note(f"note: {text}")
    if as_json:
        echo_json(report.to_json())
    else:
        _echo(report)


def _echo(report: MendReport) -> None:
    click.echo(f"run {report.run}, {report.masks} masks in {report.frames} frames, answered by {report.checkpoint}")
    if report.scores:
        columns = ("block", "masks", "IoU before", "after", "better", "worse")
        rows = [
            [block, s.n, f"{s.before:.3f}", f"{s.after:.3f}", f"{s.better:.1%}", f"{s.worse:.1%}"]
            for block, s in report.scores.items()
        ]
        echo_table(columns, rows)
    if report.fitted:
        counts = ", ".join(f"{n} masks ({what})" for what, n in sorted(report.fitted.items()))
        click.echo(f"Fitted on, and so in no mean: {counts}.")
    verdicts.mending(report, relative(report.out.absolute()))
