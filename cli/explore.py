"""`hela-store explore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import store_option
from .output import note

if TYPE_CHECKING:
    from hela_store import Store


@click.command()
@store_option
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
def explore(store: Store, port: int) -> None:
    """Serve a local page over the catalog: SQL, results as tables, cells as crops with outlines.

    Only this machine reaches it, only with the address printed, and it changes nothing. Ctrl-C ends it.
    """
    import hela_store as hs

    hs.explore(store, port=port, started=click.echo)
    note("stopped")
