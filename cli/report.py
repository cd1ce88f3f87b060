"""`hela-store report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hela_store.base.text import counted

from . import verdicts
from .help import RUN, Command
from .options import json_option, store_option
from .output import bars, echo_json, note, relative

if TYPE_CHECKING:
    from hela_store import Store

BEGINS = {"frames": "; it begins with the worst frames", "mended": "; it begins with the mended masks"}
"""What the first section of a report shows, by its id."""


@click.command(
    cls=Command,
    positional={"runs": f"Evaluation, or a fine-tuning for all evaluations of its weights: {RUN}."},
    examples=("hela-store report -s fluo", "hela-store report -s fluo RUN RUN --out change.html"),
)
@store_option
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Write the report into this file.",
)
@json_option
def report(store: Store, runs: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write charts, tables and a gallery of cells as HTML.

    It is one file that works offline. The first RUN is compared with the last. Without RUN, the report has the latest
    evaluation of every checkpoint.
    """
    import hela_store as hs

    found = hs.report(store, runs, out=out, progress=bars)
    for line in found.notes:
        note(f"note: {line}")
    if as_json:
        echo_json(found.to_json())
    else:
        size = f"{found.bytes / 1e6:.1f} MB"
        parts = [counted(len(found.runs), "run"), counted(found.charts, "chart"), counted(found.cards, "cell"), size]
        click.echo(f"{relative(Path(found.path))}: {', '.join(parts)}")
        begins = BEGINS.get(found.sections[0], "") if found.sections else ""
        click.echo(f"Open it in a browser{begins}.")
        verdicts.next_step("explore" if found.cards else "evaluate --zero-shot --split val")
