"""Rows of a query as plain values, so that every form in which they are printed says the same.

Numbers, text, truth values, lists and objects stay what they are. What JSON does not know becomes text as DuckDB writes
it: dates, times, intervals and bytes, decimal numbers with more digits than a float has, and, inside of lists and
objects, ``nan`` and ``inf``. Nothing is refused: years beyond 9999 and infinite dates are text as well.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.errors import QueryError

if TYPE_CHECKING:
    import duckdb

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Parts of a second by the name of the unit."""
ENDLESS = {32: 2**31 - 1, 64: 2**63 - 1}
"""What DuckDB stores for an infinite date and an infinite timestamp; its negative for the one before all others."""


INEXACT = re.compile(r"\b(UHUGEINT|BIGNUM|BIT|TIME WITH TIME ZONE|GEOMETRY|VARIANT)\b")
"""Types of which DuckDB (2.0) gives Arrow something else than their values, without an error."""


def to_arrow(result: duckdb.DuckDBPyRelation) -> pa.Table:
    """Return the rows of a result; columns whose values would be lost on the way are text."""
    kinds = [str(kind) for kind in result.types]
    if any(map(INEXACT.search, kinds)):
        names = ['"' + name.replace('"', '""') + '"' for name in result.columns]
        places = [f"#{number}{'::VARCHAR' if INEXACT.search(kind) else ''}" for number, kind in enumerate(kinds, 1)]
        result = result.project(", ".join(f"{place} AS {name}" for place, name in zip(places, names, strict=True)))
    return result.to_arrow_table()


def relation(table: pa.Table) -> duckdb.DuckDBPyRelation:
    """Return a result as a relation of a connection of its own."""
    return _database(os.getpid()).cursor().from_arrow(table)


@functools.cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Return a database in memory, which takes longer to make than a small query; a forked process needs another."""
    import duckdb

    return duckdb.connect()


def named_once(table: pa.Table) -> pa.Table:
    """Return a result whose columns have names of their own: the second ``n`` becomes ``n_1``."""
    names: list[str] = []
    for name in table.column_names:
        tries = (f"{name}_{number}" for number in range(1, len(table.column_names) + 1))
        names.append(name if name not in names else next(new for new in tries if new not in names))
    return table.rename_columns(names)


def plain_rows(table: pa.Table) -> list[list[Any]]:
    """Return the rows of a result.

    Returns
    -------
    list of list
        Each value None, a truth value, a number, text, a list or a dict. Only a number that is not inside of a list or
        a dict may be NaN or infinite.
    """
    columns = [[value for chunk in column.chunks for value in _values(chunk)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def csv_lines(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a header and plain rows as lines of CSV (RFC 4180, but for the ends of lines).

    Lists and objects are JSON. An empty field is None, and empty text is in quotes; in a result of one column both are,
    because readers pass over empty lines.
    """
    for row in (names, *rows):
        fields = (_quoted(cell_text(value), quote=value == "" or len(names) == 1) for value in row)
        yield ",".join(fields) + "\n"


def cell_text(value: Any) -> str:
    """Return a plain value as text: JSON of truth values, lists and objects; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _quoted(text: str, quote: bool) -> str:
    special = not text.isprintable() or any(letter in text for letter in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if special or (quote and not text) else text


def finite(value: Any) -> Any:
    """Return a plain value as JSON can hold it: ``nan`` and ``inf`` as text, which no NULL is taken for."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def for_parquet(table: pa.Table) -> pa.Table:
    """Return a result that Parquet can hold.

    Raises
    ------
    QueryError
        It has a column of a type that Parquet does not know.
    """
    for column in table.schema:
        kinds = [column.type]
        while kinds:
            kind = kinds.pop()
            empty = pa.types.is_struct(kind) and kind.num_fields == 0
            if empty or pa.types.is_union(kind) or pa.types.is_interval(kind):
                raise QueryError(
                    f"column {column.name} is of type {column.type}, which Parquet does not know; cast it to VARCHAR "
                    "in the query"
                )
            kinds += [kind.field(number).type for number in range(kind.num_fields)]
    return table


def _values(array: pa.Array) -> list[Any]:
    """Return the values of an array; what a list or an object holds is made plain in turn."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _values(array.storage)
    if pa.types.is_dictionary(kind):
        return _values(array.dictionary_decode())
    if pa.types.is_struct(kind):
        fields = [(kind.field(number).name, _inner(array.field(number))) for number in range(kind.num_fields)]
        rows = [{name: values[row] for name, values in fields} for row in range(len(array))]
        return [row if there else None for row, there in zip(rows, array.is_valid().to_pylist(), strict=True)]
    if pa.types.is_union(kind):
        members = {code: _inner(array.field(number)) for number, code in enumerate(kind.type_codes)}
        return [members[code][row] for row, code in enumerate(array.type_codes.to_pylist())]
    if pa.types.is_map(kind):
        return [None if part.values is None else _object(part.values) for part in array]
    if _is_list(kind):
        # all values at once: one call a row would take ten times as long
        values = iter(_inner(array.flatten()))
        lengths = pc.list_value_length(array).to_pylist()
        return [None if length is None else list(itertools.islice(values, length)) for length in lengths]
    return _simple(array)


def _inner(array: pa.Array) -> list[Any]:
    return [finite(value) for value in _values(array)]


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _object(entries: pa.StructArray) -> dict[str, Any]:
    return dict(zip(map(cell_text, _inner(entries.field(0))), _inner(entries.field(1)), strict=True))


def _simple(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_date32(kind):
        return _each(array, pa.int32(), _date)
    if pa.types.is_timestamp(kind):
        return _each(array, pa.int64(), lambda value: _timestamp(value, kind))
    if pa.types.is_time(kind):
        return _each(array, pa.int32() if kind.bit_width == 32 else pa.int64(), lambda value: _clock(value, kind.unit))
    if pa.types.is_decimal(kind):
        return _each(array, kind, _decimal)
    if pa.types.is_float32(kind):
        # as short as its own digits: 0.1, not 0.10000000149011612
        return _each(array, kind, lambda value: float(str(np.float32(value))))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _each(array, kind, _bytes)
    if pa.types.is_interval(kind):
        return _each(array, kind, _interval)
    return list(array.to_pylist())


def _each(array: pa.Array, kind: pa.DataType, shown: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else shown(value) for value in array.cast(kind).to_pylist()]


def _endless(value: int, bits: int) -> str | None:
    return {ENDLESS[bits]: "infinity", -ENDLESS[bits]: "-infinity"}.get(value)


def _date(days: int) -> str:
    return _endless(days, 32) or _calendar(days)


def _calendar(days: int) -> str:
    year, month, day = str(np.datetime64(days, "D")).rsplit("-", 2)
    return f"{year}-{month}-{day}" if int(year) > 0 else f"{1 - int(year):04}-{month}-{day} (BC)"


def _timestamp(value: int, kind: pa.TimestampType) -> str:
    if endless := _endless(value, 64):
        return endless
    days, part = divmod(value, 86_400 * UNITS[kind.unit])
    return f"{_calendar(days)} {_clock(part, kind.unit)}" + ("+00" if kind.tz else "")


def _clock(value: int, unit: str) -> str:
    """Return a time of day, or the length of an interval, to the last digit that is not 0."""
    seconds, part = divmod(abs(value), UNITS[unit])
    digits = str(part).zfill(len(str(UNITS[unit])) - 1).rstrip("0") if part else ""
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return ("-" if value < 0 else "") + text + (f".{digits}" if digits else "")


def _interval(value: Any) -> str:
    months, days, nanoseconds = value
    years, months = (-1 if months < 0 else 1) * (abs(months) // 12), int(math.fmod(months, 12))
    counted = ((years, "year"), (months, "month"), (days, "day"))
    parts = [f"{count} {name}{'' if abs(count) == 1 else 's'}" for count, name in counted if count]
    return " ".join(parts + ([_clock(nanoseconds, "ns")] if nanoseconds or not parts else []))


def _decimal(value: Decimal) -> int | float | str:
    if value.as_tuple().exponent == 0:
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)


def _bytes(value: bytes) -> str:
    plain = set(range(32, 127)) - set(b"\\'\"")
    return "".join(chr(byte) if byte in plain else f"\\x{byte:02X}" for byte in value)
