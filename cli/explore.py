"""`hela-store explore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .help import Command
from .options import store_option
from .output import note

if TYPE_CHECKING:
    from hela_store import Store


@click.command(cls=Command, examples=("hela-store explore -s fluo",))
@store_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Listen on this port; 0: any free one. `teach` has the same default, so give one of them another port.",
)
def explore(store: Store, port: int) -> None:
    """Show cells as crops with outlines in your browser.

    You choose the cells with SQL. Only this machine reaches the page, with the address that is printed. The page
    changes nothing. Ctrl-C ends the command.
    """
    import hela_store as hs

    hs.explore(store, port=port, started=click.echo)
    note("stopped")
