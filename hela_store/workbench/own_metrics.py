"""Users' own per-cell columns beside a run: published as a run of kind ``metrics``, read in SQL as ``my_metrics``."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.columnar import arrow_table
from hela_store.base.files import digest
from hela_store.catalog.own_columns import OWN_FILE, OWN_KEYS, OWN_TYPES
from hela_store.errors import RunError
from hela_store.runs.finished import claim_run, readable_runs
from hela_store.runs.folder import load_run, new_run
from hela_store.runs.info import RunInfo
from hela_store.store.store import Store

KIND = "metrics"
RESERVED = frozenset(
    "run kind checkpoint encoder prompt prompt_origin prompt_seed split sequence frame time view cell label area "
    "diameter touches_neighbour touches_border is_bright_small is_dim cut iou dice predicted_iou is_empty boundary_iou "
    "hd95 nsd1 nsd2 spill failure".split()
)
"""Columns of ``cell_metrics``, which a join with ``my_metrics`` would make ambiguous."""
LONGEST = 63
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def add_metrics(store: Store, run: str, table: Any) -> str:
    """Publish own columns for the cells that a run scored; return the id of the run of kind ``metrics`` they are in.

    Parameters
    ----------
    store : Store
    run : str
        The run with the predictions: its id, its beginning, or ``"latest"``.
    table : table of Arrow, pandas or polars
        A column ``cell``, optionally ``prompt`` and ``prompt_seed``, and own columns of numbers, text or truth values.

    Raises
    ------
    RunError
        There is no such run, or it scored no cells. The table has no own column, a cell or prompt that is not in the
        run, a key twice or without a value, a reserved or impossible name, or a type that cannot be kept. Another
        table gave the run a column of that name.
    """
    info = load_run(store.path, run)
    if not info.has("predictions.parquet"):
        raise RunError(
            f"run {info.id} is of kind {info.kind} and scored no cells; give own columns to a run that "
            "`hela-store evaluate` made"
        )
    found = _checked(arrow_table(table, "the table of own columns", RunError))
    _check_cells(found, info)
    names = [name for name in found.column_names if name not in OWN_KEYS.names]
    # not compared as tables, in which NaN differs from itself
    sum_ = digest(repr(found.column_names), repr(found.to_pylist()))
    with claim_run(store.path, KIND, {"run": info.id}):
        for other in readable_runs(store.path, KIND):
            shared = {name.lower() for name in names} & {name.lower() for name in other.config.get("columns", {})}
            if other.parent == info.id and shared:
                if other.config["sum"] == sum_:
                    return other.id
                raise RunError(
                    f"run {info.id} has a column {min(shared)!r} already, of {other.id}; a published column never "
                    "changes, choose another name"
                )
        kinds = {name: OWN_TYPES[found.schema.field(name).type] for name in names}
        about: dict[str, Any] = {"encoder": info.encoder, "checkpoint": info.checkpoint, "columns": kinds, "sum": sum_}
        if info.labels_version:
            about |= {"labels_version": info.labels_version}
        folder = new_run(store.path, KIND, about, parent=info.id)
        with folder.tidied():
            folder.write_table(OWN_FILE, found)
            folder.publish()
    return folder.id


def _checked(table: pa.Table) -> pa.Table:
    """Return the table with its keys first, columns of the four types that are kept, and rows in the order of keys."""
    if "cell" not in table.column_names:
        raise RunError(f"the table has no column 'cell'; it has {', '.join(table.column_names) or 'none'}")
    own = [name for name in table.column_names if name not in OWN_KEYS.names]
    if not own:
        raise RunError("the table has no column of its own; add one beside cell, prompt and prompt_seed")
    if "prompt_seed" in table.column_names and "prompt" not in table.column_names:
        raise RunError("the table has prompt_seed and no prompt; add the column prompt, a seed belongs to one")
    _check_names(own)
    keys = [_key(table, field) for field in OWN_KEYS]
    columns = [_kept(name, table[name]) for name in own]
    found = pa.table([*keys, *columns], names=[*OWN_KEYS.names, *own])
    found = found.sort_by([(name, "ascending") for name in OWN_KEYS.names])
    counts = found.group_by(OWN_KEYS.names).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if twice.num_rows:
        first = ", ".join(str(twice[name][0].as_py()) for name in OWN_KEYS.names if twice[name][0].is_valid)
        raise RunError(f"the table has {first} twice; one row for each cell, or for each cell, prompt and prompt_seed")
    return found


def _check_names(names: list[str]) -> None:
    lower = [name.lower() for name in names]
    for name in names:
        if not _NAME.fullmatch(name) or len(name) > LONGEST:
            raise RunError(
                f"a column is called {name!r:.80}; expected letters, digits and _, up to {LONGEST}, no digit first"
            )
        if name.lower() in RESERVED or name.lower() in OWN_KEYS.names:
            raise RunError(f"a column is called {name!r}, which cell_metrics has already; choose another name")
        if lower.count(name.lower()) > 1:
            raise RunError(f"two columns are called {name.lower()!r}, which are one in SQL; rename one")


def _key(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    values = table[field.name]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    right = _is_text(values.type) if field.name != "prompt_seed" else pa.types.is_integer(values.type)
    if values.null_count or pa.types.is_null(values.type):
        raise RunError(f"{values.null_count} rows have no {field.name} (NULL or NaN); give every row one")
    if not right:
        expected = "integers" if field.name == "prompt_seed" else "text"
        raise RunError(f"the column {field.name} is of type {values.type}, expected {expected}")
    return values.cast(field.type)


def _kept(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        return values
    if _is_text(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        return values.cast(pa.float64())
    if pa.types.is_integer(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise RunError(
                f"column {name} holds integers beyond 64 bits with a sign; make them floats or text"
            ) from None
    raise RunError(f"column {name} is of type {kind}; expected numbers, text or truth values")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_cells(table: pa.Table, info: RunInfo) -> None:
    """Refuse rows of cells, prompts or seeds that the run does not have."""
    asked = {
        row["prompt_id"]: (row["kind"], row["prompt_seed"])
        for row in info.rows("prompts", ["prompt_id", "kind", "prompt_seed"])
    }
    there: set[tuple[Any, ...]] = set()
    for row in info.rows("predictions", ["prompt_id", "cell"]):
        kind, seed = asked[row["prompt_id"]]
        there |= {(row["cell"], None, None), (row["cell"], kind, None), (row["cell"], kind, seed)}
    given = zip(*(table[name].to_pylist() for name in OWN_KEYS.names), strict=True)
    strange = [key for key in given if key not in there]
    if strange:
        first = ", ".join(str(part) for part in strange[0] if part is not None)
        raise RunError(
            f"{len(strange)} of {table.num_rows} rows are not of run {info.id}, such as {first}; "
            "give rows of the cells, prompts and seeds that it scored"
        )
