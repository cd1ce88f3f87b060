"""Tables that a caller hands over, whichever library made them, as Arrow tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from hela_store.errors import QueryError, RunError

from .text import first_line

EXPECTED = "expected a table of Arrow, pandas or polars"


def arrow_table(value: Any, what: str, error: type[QueryError] | type[RunError] = QueryError) -> pa.Table:
    """Return a table of Arrow, pandas or polars as an Arrow table; an index without a name is left out.

    Parameters
    ----------
    value : object
        The table as the caller has it.
    what : str
        What it is, for messages, such as ``"the frame 'mine'"``.
    error : type
        What is raised.

    Raises
    ------
    QueryError
        Or another ``error``: it is no table, a column is of mixed types, or two columns have the same name.
    """
    try:
        table = _as_arrow(value)
    except (pa.ArrowException, TypeError, ValueError) as reason:
        raise error(f"{what} cannot be read as a table ({first_line(reason)}); {EXPECTED}") from None
    if table is None:
        raise error(f"{what} is a {type(value).__name__}; {EXPECTED}")
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise error(f"{what} has two columns of the name {twice!r}; rename one")
    return table.select(names)


def _as_arrow(value: Any) -> pa.Table | None:
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns"):
        return pa.Table.from_pandas(value)
    if hasattr(value, "__arrow_c_stream__"):
        return pa.table(value)
    return None
