"""`hela-store info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import json_option, store_option
from .output import echo_facts, echo_json, echo_table

if TYPE_CHECKING:
    from hela_store import Store


@click.command()
@store_option
@json_option
def info(store: Store, as_json: bool) -> None:
    """Say what is in a store: frames, views done and planned, cells, bytes, runs with their scores."""
    import hela_store as hs

    found = hs.info(store)
    if as_json:
        echo_json(found.to_json())
        return
    echo_facts(found.facts())
    if found.runs:
        rows = [asdict(line) for line in found.runs]
        click.echo()
        echo_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])
