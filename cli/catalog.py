"""`hela-store catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import verdicts
from .help import Command, Group
from .options import json_option, store_option
from .output import echo_facts, echo_json

if TYPE_CHECKING:
    from hela_store import Store

COUNTED = (
    "frames",
    "cells",
    "views",
    "committed",
    "runs",
    "prompts",
    "predictions",
    "detections",
    "suspects",
    "changes",
)


@click.group(cls=Group)
def catalog() -> None:
    """Manage catalog.duckdb, the index over a store's files."""


@catalog.command(cls=Command, examples=("hela-store catalog rebuild -s fluo",))
@store_option
@json_option
def rebuild(store: Store, as_json: bool) -> None:
    """Rebuild the catalog from the files of the store.

    It needs neither the data set nor the encoder.
    """
    from hela_store.catalog.index import query
    from hela_store.catalog.index import rebuild as make_anew

    make_anew(store.path)
    counts = ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in COUNTED)
    rows = query(store.path, f"SELECT {counts}").to_pylist()[0]
    if as_json:
        echo_json(rows)
    else:
        echo_facts([(name, f"{count} rows") for name, count in rows.items()])
        verdicts.next_step("report")
