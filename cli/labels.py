"""`hela-store labels`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hela_store.base.text import counted

from . import verdicts
from .help import Command, Group
from .options import LabelsVersion, json_option, labels_version_option, store_option, version_number
from .output import bars, echo_json, echo_table, relative, say

if TYPE_CHECKING:
    from hela_store import Store
    from hela_store.labels.diff import FrameDifference
    from hela_store.labels.events import LabelEvent

LOG = ("version", "when", "who", "what", "frames", "seconds")
DIFF = ("frame", "changed", "new", "gone", "pixels")


@click.group(cls=Group)
def labels() -> None:
    """List, compare, export and import versions of the labels."""


@labels.command(cls=Command, examples=("hela-store labels log -s fluo",))
@store_option
@json_option
def log(store: Store, as_json: bool) -> None:
    """List the versions of the labels.

    It says who changed what, when, and how long that took. Version 0 are the labels as first read by `embed`.
    """
    from hela_store.labels.log import LabelLog

    found = LabelLog(store)
    versions = [found.events_of(version) for version in range(1, found.version + 1)]
    if as_json:
        echo_json([event.to_json() | {"version": n} for n, events in enumerate(versions, 1) for event in events])
        return
    if versions:
        echo_table(LOG, [_logged(number, events) for number, events in enumerate(versions, 1)])
        verdicts.next_step(f"labels diff 0 {len(versions)}")
    else:
        click.echo("The labels are as `embed` first read them: version 0.")
        verdicts.next_step("teach")


@labels.command(
    cls=Command,
    positional={"first": "Version of the labels: a number from 0, or latest.", "second": "Version to compare with A."},
    examples=("hela-store labels diff -s fluo 0 latest",),
)
@click.argument("first", type=LabelsVersion(), metavar="A")
@click.argument("second", type=LabelsVersion(), metavar="B")
@store_option
@json_option
def diff(store: Store, first: int | str, second: int | str, as_json: bool) -> None:
    """Compare two versions of the labels, frame by frame."""
    from hela_store.labels.diff import diff as compare_versions

    found = compare_versions(store, version_number(first), version_number(second))
    if as_json:
        echo_json([difference.to_json() for difference in found])
        return
    if found:
        echo_table(DIFF, [_row(difference) for difference in found])
    say(
        f"{counted(len(found), 'frame')} with differences."
        if found
        else "Both versions have the same labels in every frame."
    )
    verdicts.next_step("finetune" if found else "labels log")


@labels.command(
    cls=Command,
    positional={"out": "Folder that gets the files."},
    examples=("hela-store labels export -s fluo corrected",),
)
@click.argument("out", type=click.Path(path_type=Path), metavar="DIR")
@store_option
@labels_version_option
@json_option
def export(store: Store, out: Path, as_json: bool) -> None:
    """Write labels as TIFFs.

    They are named like those of the Cell Tracking Challenge. Frames with all cells labelled go into SEQUENCE_ST/SEG,
    those with only some into SEQUENCE_GT/SEG.
    """
    from hela_store.exchange.labels import export_labels

    found = export_labels(store, out, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    folders = ", ".join(relative(folder / "SEG") for folder in found.folders)
    say(f"{folders}: labels of {counted(len(found.files), 'frame')} at version {found.version}")
    verdicts.next_step(f"labels import {shlex.quote(relative(out.absolute()))}")


@labels.command(
    "import",
    cls=Command,
    positional={"source": "Folder of TIFFs that are named as `labels export` names them."},
    examples=("hela-store labels import -s fluo corrected",),
)
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
@click.option("--who", default="import", show_default=True, metavar="NAME", help="Write down who made these labels.")
@store_option
@json_option
def import_(store: Store, source: Path, who: str, as_json: bool) -> None:
    """Import label TIFFs as a new version of the labels."""
    from hela_store.exchange.labels import import_labels

    found = import_labels(store, source, who=who, progress=bars)
    if as_json:
        echo_json(found.to_json())
        return
    if not found.frames:
        say(f"All {found.compared} label files are as version {found.version} has them; nothing was changed.")
        verdicts.next_step("labels log")
        return
    say(f"version {found.version}: {len(found.frames)} of {found.compared} frames changed (cells: {found.cells})")
    verdicts.next_step(f"labels diff {found.version - 1} {found.version}")


def _logged(version: int, events: Sequence[LabelEvent]) -> list[Any]:
    counts = Counter[str]()
    for event in events:
        counts[event.kind] += len(event.cells) or 1
    target = events[0].target
    what = ", ".join(f"{kind} {count}" for kind, count in counts.items()) if target is None else events[0].kind
    frames = list(dict.fromkeys(event.frame for event in events))
    who = ", ".join(dict.fromkeys(event.who for event in events))
    seconds = sum(event.seconds for event in events)
    shown = frames[0] if len(frames) == 1 else f"{len(frames)} frames"
    return [version, events[0].when[:19], who, what + (f" of {target}" if target else ""), shown, round(seconds, 1)]


def _row(found: FrameDifference) -> list[Any]:
    return [found.frame, len(found.changed), len(found.new), len(found.gone), found.pixels]
