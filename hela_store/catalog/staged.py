"""Hand Arrow tables to the catalog that is being written, in the columns of its tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
import pyarrow as pa

Connection = duckdb.DuckDBPyConnection


@contextlib.contextmanager
def staged(con: Connection, name: str, table: pa.Table) -> Iterator[None]:
    """Let SQL read an Arrow table by a name."""
    con.register(name, table)
    try:
        yield
    finally:
        con.unregister(name)


def schema_of(con: Connection, table: str, without: set[str] | None = None) -> pa.Schema:
    """Return the columns of a table of the catalog, but for some."""
    schema: pa.Schema = con.sql(f"FROM {table} LIMIT 0").to_arrow_table().schema
    return pa.schema([field for field in schema if field.name not in (without or set())])
