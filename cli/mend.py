"""`hela-store mend`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted, percent
from hela_store.mending.config import FORMS, TRAINED, MendConfig
from hela_store.recipe.splits import SPLIT_NAMES

from . import verdicts
from .help import Command
from .options import decoder_options, default_checkpoint, device_option, json_option, note_scorings, store_option
from .output import bars, echo_json, echo_table, note, note_reused, note_untrained, relative, say

if TYPE_CHECKING:
    from hela_store import MendReport, Store


@click.command(
    cls=Command,
    positional={"masks": "Folder of label images with the names of the store's frames, or a run of the store."},
    examples=(
        "hela-store mend cellpose_masks -s fluo --out mended --split-merge",
        "hela-store mend RUN -s fluo --out mended_baseline",
    ),
)
@click.argument("masks", type=click.Path(path_type=Path), metavar="MASKS")
@store_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write label images of the same names into this new folder. If the folder is lost, the same "
    "command writes it again from the stored masks.",
)
@decoder_options("--prompt")
@click.option(
    "--prompt",
    type=click.Choice(FORMS),
    default=MendConfig.prompt,
    show_default=True,
    help="Give the decoder the mask, its bounding box, or both.",
)
@click.option("--split-merge", is_flag=True, help="Also apply the proposed splits and merges.")
@device_option
@json_option
def mend(store: Store, masks: Path, zero_shot: bool, as_json: bool, **choices: Any) -> None:
    """Improve the masks of another tool. Masks stay unchanged where a gain is doubtful.

    MASKS holds TIFF or PNG files with 0 for background and one number per cell. Every mask keeps its number; only
    --split-merge may take numbers away and add new ones. The masks of a run, such as a baseline, get numbers first.
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
    say(f"run {report.run}, {report.masks} masks in {counted(report.frames, 'frame')}, decoder {report.checkpoint}")
    if report.scores:
        columns = ("frames", "masks", "IoU before", "after", "better", "worse")
        rows = [
            [
                SPLIT_NAMES.get(block, block),
                s.n,
                f"{s.before:.3f}",
                f"{s.after:.3f}",
                percent(s.better),
                percent(s.worse),
            ]
            for block, s in report.scores.items()
        ]
        echo_table(columns, rows)
    if report.fitted:
        counts = ", ".join(
            f"{n} masks (by the {what.replace(', ', ' and the ')})" for what, n in sorted(report.fitted.items())
        )
        say(f"Left out of these means, because something learned from their labels: {counts}.")
    verdicts.mending(report, relative(report.out.absolute()))
