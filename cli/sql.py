"""`hela-store sql`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .help import Command
from .options import json_option, store_option
from .output import echo_json, echo_table, note

if TYPE_CHECKING:
    from hela_store import Store


@click.command(
    cls=Command,
    positional={"query": "SELECT statement, in quotes."},
    examples=('hela-store sql -s fluo "SELECT * FROM cell_metrics ORDER BY iou LIMIT 9"',),
)
@store_option
@click.argument("query")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV.")
@click.option(
    "--parquet", type=click.Path(path_type=Path), metavar="FILE", help="Write the result into a Parquet file."
)
def sql(store: Store, query: str, as_json: bool, as_csv: bool, parquet: Path | None) -> None:
    """Answer one SELECT over the catalog, read-only.

    Tables: frames, cells, plans, views, committed, runs, prompts, predictions, detections, suspects; cell_metrics joins
    them, cell_subsets says which cells are hard, test_scorings counts how often test was scored. DESCRIBE lists the
    columns.
    """
    from hela_store.base.parquet import write_parquet
    from hela_store.catalog.index import query as run_query
    from hela_store.catalog.values import csv_lines, finite, for_parquet, named_once, plain_rows

    if as_json + as_csv + (parquet is not None) > 1:
        raise click.UsageError("--json, --csv and --parquet exclude each other")
    found = named_once(run_query(store.path, query))
    names = found.column_names
    if parquet is not None:
        write_parquet(parquet.absolute(), for_parquet(found))
        note(f"{found.num_rows} rows in {parquet}")
    elif as_json:
        echo_json([dict(zip(names, map(finite, row), strict=True)) for row in plain_rows(found)])
    elif as_csv:
        sys.stdout.writelines(csv_lines(names, plain_rows(found)))
    else:
        echo_table(names, [[_word(value) for value in row] for row in plain_rows(found)])


def _word(value: object) -> object:
    """Return a value as SQL names it, also where it is no number."""
    if isinstance(value, bool) or value != value:
        return str(value).lower()
    return value
