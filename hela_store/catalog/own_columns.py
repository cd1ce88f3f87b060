"""Users' own per-cell columns as rows of the catalog's table ``own_values``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hela_store.runs.info import RunInfo

OWN_FILE = "metrics.parquet"
OWN_KEYS = pa.schema([("cell", pa.string()), ("prompt", pa.string()), ("prompt_seed", pa.int64())])
"""What a value belongs to; of the prompt and its seed NULL where the value is of the cell, whatever the prompt."""
OWN_TYPES = {pa.float64(): "DOUBLE", pa.int64(): "BIGINT", pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN"}
"""Types of columns, and what they are in SQL."""
_PLACES = {"DOUBLE": "number", "BIGINT": "integer", "VARCHAR": "text", "BOOLEAN": "boolean"}


def own_values(data: bytes, info: RunInfo, schema: pa.Schema) -> pa.Table:
    """Return the values of ``metrics.parquet``, one row each; a missing value has none.

    Parameters
    ----------
    data : bytes
        Of the file.
    info : RunInfo
        The run that published them; its ``parent`` is the run that they belong to.
    schema : pyarrow.Schema
        Of ``own_values``.

    Raises
    ------
    ValueError, KeyError, pyarrow.ArrowException
        It is damaged, lacks a key, or a column is of a type that is never written.
    """
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        table = file.read()
    parts = [schema.empty_table()]
    for name in table.column_names:
        if name in OWN_KEYS.names:
            continue
        kind = OWN_TYPES.get(table.schema.field(name).type)
        if kind is None:
            raise ValueError(f"column {name} is of type {table.schema.field(name).type}")
        rows = table.filter(pc.is_valid(table[name]))
        n = rows.num_rows
        columns = {key: rows[key].cast(OWN_KEYS.field(key).type) for key in OWN_KEYS.names}
        columns |= {"run": pa.repeat(info.parent or "", n), "metrics": pa.repeat(info.id, n)}
        columns |= {"name": pa.repeat(name, n), "kind": pa.repeat(kind, n), _PLACES[kind]: rows[name]}
        given = [columns.get(field.name, pa.nulls(n, field.type)) for field in schema]
        parts.append(pa.table(given, schema=schema))
    return pa.concat_tables(parts)
