"""Parquet files with checksums, wholly there or not there at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hela_store.errors import StoreError

from .files import write_atomic
from .text import first_line


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as one durable Parquet file (zstd, with checksums)."""
    sink = pa.BufferOutputStream()
    # numbers of vectors hardly repeat: a dictionary of them takes time and makes the file larger
    repeating = [field.name for field in table.schema if not pa.types.is_fixed_size_list(field.type)]
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, use_dictionary=repeating)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, way_out: str = "restore it, or make a new store"
) -> pa.Table:
    """Return the table of a Parquet file of ours, or some of its columns, its checksums compared.

    Raises
    ------
    StoreError
        It is damaged, or not there; ends with ``way_out``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} is damaged: {first_line(error)}; {way_out}") from None
    return parse_parquet(path, data, columns, way_out=way_out)


def parse_parquet(path: Path, data: bytes, columns: Sequence[str] | None = None, *, way_out: str) -> pa.Table:
    """Return the table that the bytes of a Parquet file hold; as :func:`read_parquet`, ``path`` is for messages."""
    try:
        # pq.read_table takes half as long again for a small file; callers read many, in threads of their own
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            lacking = set(columns or ()) - set(file.schema_arrow.names)
            if lacking:
                raise ValueError(f"it has no column {', '.join(sorted(lacking))}")
            return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {first_line(error)}; {way_out}") from None
