"""Results of SQL as values that can be printed: what Python has no value for is written as DuckDB writes it.

Dates before the year 1 or at infinity, intervals of months, bits and the like have no counterpart in Python, or raise
an OverflowError on the way; as text they can be shown in a table, as CSV and as JSON alike.
"""

from __future__ import annotations

from typing import Any

import duckdb

_KEPT = {
    *("boolean", "tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint", "float", "double", "decimal", "varchar"),
}
"""Types whose values are numbers and text in Python, too."""


def printed_rows(result: duckdb.DuckDBPyRelation) -> list[tuple[Any, ...]]:
    """Return the rows of a result: numbers, text, None, and lists and tables of these."""
    kinds = [(str(kind), _printed(kind)) for kind in result.types]
    if any(kind != printed for kind, printed in kinds):
        # by position: two columns may have the same name
        columns = [
            f"#{n}" if kind == printed else f"CAST(#{n} AS {printed})" for n, (kind, printed) in enumerate(kinds, 1)
        ]
        result = result.project(", ".join(f"{column} AS c{n}" for n, column in enumerate(columns)))
    return result.fetchall()


def _printed(kind: Any) -> str:
    """Return the SQL type with text in place of everything that Python has no value for."""
    if kind.id in _KEPT:
        return str(kind)
    if kind.id in ("list", "array"):
        return f"{_printed(dict(kind.children)['child'])}[]"
    if kind.id == "struct" and kind.children:
        return f"STRUCT({', '.join(f'{_quoted(name)} {_printed(part)}' for name, part in kind.children)})"
    return "VARCHAR"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
