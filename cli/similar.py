"""`hela-store similar`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .help import RUN, Command
from .options import json_option, store_option
from .output import bars, echo_json, echo_table, note_untrained
from .verdicts import next_step

if TYPE_CHECKING:
    from hela_store import Store


@click.command(
    cls=Command,
    positional={"cell": "Labelled cell to start from, such as 01/t012#17."},
    examples=("hela-store similar 01/t012#17 -s fluo --limit 20",),
)
@click.argument("cell", metavar="FRAME#LABEL")
@click.option("--limit", type=int, default=20, show_default=True, metavar="N", help="Print N cells at most.")
@click.option(
    "--run",
    metavar="RUN",
    help=f"Compare the mask tokens of this decoder instead of embeddings. RUN is zero-shot or {RUN}.",
)
@store_option
@json_option
def similar(store: Store, cell: str, limit: int, run: str | None, as_json: bool) -> None:
    """Find the cells that are most like one, by their embeddings.

    The embedding of every labelled cell is pooled in its mask the first time and kept in the store.
    """
    from hela_store.vectors.similar import similar as find_similar

    found = find_similar(store, cell, limit, run, progress=bars)
    note_untrained(store)
    if as_json:
        echo_json([each.to_json() for each in found])
        return
    rows = [[each.cell, each.similarity, each.frame, each.label, *each.box] for each in found]
    echo_table(("cell", "similarity", "frame", "label", "x0", "y0", "x1", "y1"), rows)
    click.echo("Similarity is the cosine of the angle between the vectors of two cells; 1 is the highest.")
    next_step("explore")
