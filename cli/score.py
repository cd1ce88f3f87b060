"""`hela-store score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from . import verdicts
from .help import RUN, Command
from .options import LabelsVersion, json_option, note_scorings, store_option, version_number
from .output import bars, echo_json, echo_table, note, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.evaluation.other_labels import Labels, TruthScore
    from hela_store.metrics.intervals import Interval

COLUMNS = ("run", "prompt", "cells", "n", "IoU", "Dice", "IoU of labels", "Dice of labels", "labels' own IoU")
INTERVALS = (
    "run", "prompt", "tracks", "IoU", "95 % from", "to", "labels' own IoU", "95 % from", "to",
    "IoU minus labels' own", "95 % from", "to",
)  # fmt: skip

RESCORED = ("run", "new run", "masks", "IoU before", "IoU")
PAIRED = ("run", "prompt", "difference", "95 % from", "to")


@click.command(
    cls=Command,
    positional={"runs": f"Evaluation or baseline to score: {RUN} for the latest of both kinds."},
    examples=("hela-store score -s fluo RUN --truth GT",),
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--truth",
    type=click.Choice(["GT", "ST", "GT+ST"]),
    default="GT",
    show_default=True,
    help="Score against these labels: GT (hand-drawn), ST (reference) or GT+ST (hand-drawn where there are some).",
)
@click.option(
    "--labels-version",
    type=LabelsVersion(),
    metavar="N|latest",
    help="Score the stored masks of each run against this version of the store's labels instead, as a new run.",
)
@store_option
@json_option
def score(store: Store, runs: tuple[str, ...], truth: Labels, labels_version: int | str | None, as_json: bool) -> None:
    """Score runs against other labels, such as hand-drawn ones.

    A cell is compared only if the other labels and the store's labels both have it.

    With --labels-version no label file is read: the masks of each RUN are scored against another version of the labels.
    """
    if labels_version is not None:
        _rescore(store, runs, version_number(labels_version), as_json)
        return
    from hela_store.evaluation.other_labels import score as score_runs
    from hela_store.recipe.recipe import TRUTH_NAMES

    found = score_runs(store, runs, truth, progress=bars)
    note_scorings(store, [*dict.fromkeys(row.run for row in found)], None if as_json else note)
    if as_json:
        echo_json([row.to_json() for row in found])
        return
    rows = [[r.run, r.prompt, r.nuclei, r.n, r.iou, r.dice, r.reference_iou, r.reference_dice] for r in found]
    echo_table(COLUMNS, [[*row, r.between_iou] for row, r in zip(rows, found, strict=True)])
    say(f"IoU against the {TRUTH_NAMES[truth]}, paired on the same cells; {found[0].units}")
    echo_table(INTERVALS, [[r.run, r.prompt, r.interval.tracks, *_ends(r)] for r in found])
    _echo_paired(found)
    names = [next(name for name in r.to_json() if name.startswith("SEG")) for r in found]
    lines = [[r.run, r.prompt, name, r.seg, r.between_seg] for r, name in zip(found, names, strict=True)]
    echo_table(("run", "prompt", f"against all of the {TRUTH_NAMES[truth]}", "SEG", "labels' own SEG"), lines)
    _echo_notes(found, truth)
    verdicts.other_labels(found, TRUTH_NAMES[truth])


def _echo_notes(found: Sequence[TruthScore], truth: str) -> None:
    for said in dict.fromkeys(str(row.tolerance) for row in found):
        say(said)
    for row in found:
        if row.unmatched:
            note(f"note: {row.run}, {row.prompt}: {row.unmatched} cells of {truth} are not in the store's labels")


def _rescore(store: Store, runs: Sequence[str], version: int | None, as_json: bool) -> None:
    """Score stored masks against another version of the labels, and print what changed."""
    from hela_store.evaluation.rescore import rescore

    found = [rescore(store, run, version, progress=bars) for run in runs]
    if as_json:
        echo_json([row.to_json() for row in found])
        return
    echo_table(RESCORED, [[r.before, r.run, r.n, r.mean_iou_before, r.mean_iou] for r in found])
    for row in found:
        trained = "" if row.trained is None else f", trained on version {row.trained}"
        note(f"note: {row.run}: scored on version {row.labels_version} of the labels{trained}")
        told = (
            (row.gone, "masks of cells that are no more"),
            (row.unanswered, "cells without a mask"),
            (row.left_out, "masks whose prompt was a mask that is not stored"),
        )
        if left := ", ".join(f"{count} {what}" for count, what in told if count):
            note(f"note: {row.run}: left out {left}")
    verdicts.next_step("compare " + " ".join(row.run for row in found) if len(found) > 1 else "report")


def _echo_paired(found: list[TruthScore]) -> None:
    """Print every run less the first one, where there are several."""
    paired = [[r.run, r.prompt, *_of(r.over_first)] for r in found if r.over_first is not None]
    if paired:
        told = "paired on the same cells and prompts; one training each, so no verdict"
        say(f"Change in IoU from {found[0].run} to the other runs, {told}")
        echo_table(PAIRED, paired)


def _of(interval: Interval | None) -> list[float]:
    return [] if interval is None else [interval.mean, interval.low, interval.high]


def _ends(row: TruthScore) -> list[float]:
    parts = (row.interval, row.between_interval, row.over_labels)
    return [value for part in parts for value in (part.mean, part.low, part.high)]
