"""`hela-store augment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import verdicts
from .help import Command, Group
from .options import json_option, store_option
from .output import echo_json, echo_table, relative, say

if TYPE_CHECKING:
    from hela_store import Store


@click.group(cls=Group)
def augment() -> None:
    """Look at what the section [augment] of the recipe does."""


@augment.command(cls=Command, examples=("hela-store augment preview -s dic --out preview.png --frame 01/t012",))
@store_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.png",
    help="Write the picture into this file.",
)
@click.option("--frame", metavar="ID", help="Show this frame, such as 01/t012. [default: the middle one]")
@click.option(
    "--tile", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Show this tile of the frame."
)
@click.option(
    "--variants", type=click.IntRange(1, 32), default=4, show_default=True, metavar="N", help="Draw N variants."
)
@json_option
def preview(store: Store, out: Path, frame: str | None, tile: int, variants: int, as_json: bool) -> None:
    """Draw augmented variants beside the original view.

    A second picture shows elastic deformations of increasing strength.
    """
    from hela_store.workflows.preview import preview as draw

    report = draw(store, out, frame=frame, tile=tile, variants=variants)
    if as_json:
        echo_json(report.to_json())
        return
    say(f"{relative(report.variants)} and {relative(report.strength)}: {report.frame}, tile {report.tile}")
    shown = ("rotate", "shift_x", "shift_y", "scale", "alpha", "damping", "jacobian", "brightness", "contrast", "gamma")
    echo_table(
        ["variant", *shown], [[i, *(row[name] for name in shown)] for i, row in enumerate(report.drawn, start=1)]
    )
    say("damping: how much the bending was weakened so that nothing folds (1: not at all)")
    say("jacobian: the smallest area to which a pixel shrinks (0 and below would be a fold)")
    if not store.recipe.augment.variants:
        say("The store embeds no variants yet: set variants = N under [augment] in store.toml before the next step.")
    verdicts.next_step("embed")
