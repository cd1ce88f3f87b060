"""Show a query more than the tables of the catalog: users' own columns as ``my_metrics``, and a caller's frames.

Both are temporary views of one connection, which is closed to files before they are made. So nothing of them is in the
catalog's file, of which only tables that schema.sql makes are believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from hela_store.base.columnar import arrow_table
from hela_store.errors import QueryError

from .staged import Connection

MY_METRICS = "my_metrics"
KEYS = ("run", "cell", "prompt", "prompt_seed")
"""Columns of ``my_metrics`` that say what a value belongs to."""
FIELDS = {"DOUBLE": "number", "BIGINT": '"integer"', "VARCHAR": '"text"', "BOOLEAN": '"boolean"'}
"""Columns of ``own_values`` by the type of value that they hold."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = """
    SELECT lower(table_name) FROM (SELECT table_name, database_name FROM duckdb_tables()
    UNION ALL SELECT view_name, database_name FROM duckdb_views() WHERE NOT internal)
    WHERE database_name IN ('catalog', 'temp')
"""


def show_own_columns(con: Connection) -> None:
    """Let a connection to the catalog read users' own columns as ``my_metrics``: a row for each run, cell and prompt.

    A name that several tables give to columns of several types is one column: of numbers a DOUBLE, else text.
    """
    kinds: dict[str, set[str]] = {}
    for name, kind in con.execute("SELECT DISTINCT name, kind FROM own_values ORDER BY name, kind").fetchall():
        kinds.setdefault(name, set()).add(kind)
    own = [f"{_value(found)} FILTER (name = {_text(name)}) AS {_quoted(name)}" for name, found in kinds.items()]
    asked = f"SELECT {', '.join([*KEYS, *own])} FROM catalog.main.own_values GROUP BY ALL"
    con.execute(f"CREATE OR REPLACE TEMP VIEW {MY_METRICS} AS {asked}")
    con.execute(f"COMMENT ON VIEW temp.main.{MY_METRICS} IS 'Own columns of users (own_values).'")
    for name in [*KEYS, *kinds]:
        meaning = "As in own_values." if name in KEYS else "An own column of a user."
        con.execute(f"COMMENT ON COLUMN temp.main.{MY_METRICS}.{_quoted(name)} IS '{meaning}'")


def own_frames(frames: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Return a caller's frames as Arrow tables; QueryError where one is no table, or has no name that SQL can say."""
    for name in frames:
        if not _NAME.fullmatch(name):
            raise QueryError(f"a frame is called {name!r}; expected a name of letters, digits and _, such as mine")
    return {name: arrow_table(value, f"the frame {name!r}") for name, value in frames.items()}


def lend(con: Connection, tables: Mapping[str, pa.Table]) -> None:
    """Let a connection to the catalog read tables by their names; QueryError where a name is one of the catalog's."""
    taken = {row[0] for row in con.execute(_TAKEN).fetchall()} if tables else set()
    taken.add(MY_METRICS)
    for name, table in tables.items():
        if name.lower() in taken:
            raise QueryError(f"the catalog has a table {name.lower()!r} already; give the frame another name")
        con.register(name, table)
        taken.add(name.lower())


def _value(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return f"any_value({FIELDS[next(iter(kinds))]})"
    as_type = "DOUBLE" if kinds == {"DOUBLE", "BIGINT"} else "VARCHAR"
    several = ", ".join(f"{FIELDS[kind]}::{as_type}" for kind in sorted(kinds))
    return f"any_value(coalesce({several}))"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
