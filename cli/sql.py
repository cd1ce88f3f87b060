"""`hela-store sql`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_option, store_option
from .output import echo_json, echo_table, note

if TYPE_CHECKING:
    from hela_store import Store


@click.command()
@store_option
@click.argument("query")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the result as CSV.")
@click.option(
    "--parquet", type=click.Path(path_type=Path), metavar="FILE", help="Write the result into a Parquet file."
)
def sql(store: Store, query: str, as_json: bool, as_csv: bool, parquet: Path | None) -> None:
    """Run one SELECT over the catalog, read-only.

    Tables: frames, cells, plans, views, committed, runs, prompts, predictions, detections; cell_metrics joins them,
    cell_subsets are its hard subsets, test_scorings counts how often test was scored. DESCRIBE names their columns.
    """
    from hela_store.base.parquet import write_parquet
    from hela_store.catalog.index import query as run_query
    from hela_store.catalog.index import query_rows

    if as_json + as_csv + (parquet is not None) > 1:
        raise click.UsageError("--json, --csv and --parquet exclude each other")
    if parquet is not None:
        found = run_query(store.path, query)
        write_parquet(parquet.absolute(), found)
        note(f"{found.num_rows} rows in {parquet}")
        return
    columns, rows = query_rows(store.path, query)
    if as_json:
        echo_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    else:
        echo_table(columns, rows)
