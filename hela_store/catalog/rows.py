"""Say what goes into the catalog: the files and run folders of a store, checked, as rows for ``schema.sql``."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from hela_store.base.manifest import Sums
from hela_store.base.segments import LABELS, is_segment
from hela_store.base.text import first_line
from hela_store.errors import RunError, StoreError
from hela_store.runs.folder import load_run, run_ids
from hela_store.runs.info import RunInfo, manifest_sum, to_json

from .label_rows import add_versions
from .own_columns import OWN_FILE, own_values
from .staged import Connection, schema_of, staged

_COMMIT_ROWS = 1_000_000
_RESTORE = "restore the folder or move it out of runs/"
_LEDGER = pa.schema([("view", pa.string()), ("row", pa.int64())])
_TABLES = {
    "frames": ("frames", "frame", ""),
    "cells": ("cell_versions", "cell", ", 0 AS since"),
    "plan": ("plans", "", ""),
}
"""The table of each kind of file, the column in which a row comes once, and what is added to its rows."""
_REQUIRED = {
    "frames": {"frame", "sequence", "time"},
    "cells": {"cell", "frame", "label", "area", "diameter"},
    "plan": {"view", "frame", "tile", "row"},
    "prompts": {"prompt_id", "kind", "origin", "prompt_seed", "split", "cell", "frame", "view", "cut"},
    "predictions": {"prompt_id", "cell", "frame", "view", "iou", "dice", "predicted_iou", "is_empty"},
    "detections": {"detection", "frame", "x0", "y0", "x1", "y1", "score"},
    "suspects": {"suspect", "rank", "frame", "x0", "y0", "x1", "y1", "score", "kind"},
    "cell_vectors": {"cell", "frame", "view", "vector"},
    "changes": {"change", "frame", "label", "new_label", "action", "probability"},
}


@dataclass(frozen=True)
class Source:
    """A file, or a run's folder, that belongs into the catalog.

    ``path`` is relative to the store; ``kind`` is frames, cells, labels, plan, ledger or run; ``bytes`` is 0 for runs,
    and ``sum`` is the sha256 of a run's manifest: empty for other files, and for runs that were published without one.
    """

    path: str
    kind: str
    bytes: int
    sum: str = ""


def listing(store: Path) -> dict[str, Source]:
    """Return what belongs into the catalog by path, in the order it is indexed, by names, sizes and manifests alone."""
    found = [*_files(store, "ingest", "frames", ".parquet"), *_files(store, "ingest", "cells", ".parquet")]
    versions = _files(store, LABELS, "labels", ".jsonl", prefix="")
    found += [source for source in versions if is_segment(Path(source.path).name)]
    found += _files(store, "plan", "plan", ".parquet", prefix="")
    for encoder in sorted(os.listdir(store / "ledger")) if (store / "ledger").is_dir() else []:
        found += _files(store, f"ledger/{encoder}", "ledger", ".jsonl", prefix="")
    found += [Source(f"runs/{name}", "run", 0, manifest_sum(store / "runs" / name)) for name in run_ids(store)]
    return {source.path: source for source in found}


@functools.cache
def schema_text() -> str:
    """Return ``schema.sql``."""
    return resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")


def fill(con: Connection, store: Path, sources: list[Source]) -> list[RunError]:
    """Add ``sources`` to the catalog that ``con`` uses, inside a transaction; return why runs were left out.

    Raises
    ------
    StoreError
        A file of ``ingest/``, ``labels/``, ``plan/`` or ``ledger/`` is damaged or lost.
    """
    for folder, way_out in (("ingest", "restore it"), ("plan", "`hela-store verify --repair` makes it again")):
        for path in Sums(store).lost(folder):
            raise StoreError(f"{path} is not there, though it was written; {way_out}")
    refused: list[RunError] = []
    done: list[Source] = []
    rows = 0
    for source in sources:
        if source.kind == "run":
            try:
                rows += _add_run(con, store, source)
            except RunError as error:
                refused.append(error)
                continue
            if rows > _COMMIT_ROWS:  # nobody sees the file yet: this only bounds memory
                con.execute("COMMIT")
                con.execute("BEGIN")
                rows = 0
        elif source.kind not in ("labels", "ledger"):
            _add_segment(con, store, source)
        done.append(source)
    add_versions(con, store, {int(Path(source.path).stem) for source in sources if source.kind == "labels"})
    _add_ledger(con, store, [source for source in sources if source.kind == "ledger"])
    columns: dict[str, list[str | int]] = {
        "path": [s.path for s in done],
        "kind": [s.kind for s in done],
        "bytes": [s.bytes for s in done],
    }
    columns["sum"] = [s.sum for s in done]
    with staged(con, "found", pa.table(columns, schema_of(con, "indexed"))):
        con.execute("INSERT INTO indexed FROM found")
    return refused


def _files(store: Path, folder: str, kind: str, suffix: str, prefix: str | None = None) -> list[Source]:
    prefix = kind if prefix is None else prefix
    try:
        with os.scandir(store / folder) as entries:
            found = [
                Source(f"{folder}/{entry.name}", kind, entry.stat().st_size)
                for entry in entries
                if entry.name.startswith(prefix) and entry.name.endswith(suffix) and not entry.name.startswith(".")
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda source: (len(source.path), source.path))  # 9.jsonl before 10.jsonl


def _add_segment(con: Connection, store: Path, source: Source) -> None:
    """Add a file of ``ingest/`` or ``plan/``; a frame or cell that is there already is not added again."""
    table, key, more = _TABLES[source.kind]
    try:
        data = Sums(store).read(store / source.path, way_out="restore it")
        rows = _read_parquet(data, source.kind, schema_of(con, table, {"plan", "since", "until"}))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{store / source.path} cannot be read ({first_line(error)}); restore it") from None
    with staged(con, "found", rows):
        if key:
            con.execute(
                f"INSERT INTO {table} BY NAME SELECT DISTINCT ON ({key}) *{more} FROM found "
                f"ANTI JOIN {table} USING ({key}) ORDER BY {key}"
            )
        else:
            con.execute("INSERT INTO plans SELECT ?, * FROM found", [Path(source.path).stem])


def _add_ledger(con: Connection, store: Path, sources: list[Source]) -> None:
    """Add segments, in the order given: a later word on a view replaces an earlier one."""
    for encoder in dict.fromkeys(source.path.split("/")[1] for source in sources):
        paths = [store / source.path for source in sources if source.path.split("/")[1] == encoder]
        rows = pa.concat_tables([_LEDGER.empty_table(), *(_read_jsonl(path) for path in paths)])
        with staged(con, "found", rows.append_column("n", pa.array(range(rows.num_rows), pa.int64()))):
            con.execute("DELETE FROM committed WHERE encoder = ? AND view IN (SELECT view FROM found)", [encoder])
            con.execute(
                'INSERT INTO committed SELECT DISTINCT ON (view) view, ?, "row" FROM found ORDER BY view, n DESC',
                [encoder],
            )


def _add_run(con: Connection, store: Path, source: Source) -> int:
    """Add a run and its rows, all or nothing; return how many."""
    info = load_run(store, Path(source.path).name)
    prompts = _run_table(con, info, "prompts", {"run"})
    repeated = {"run", "prompt", "prompt_origin", "prompt_seed", "split", "cut"}
    predictions = _run_table(con, info, "predictions", repeated)
    detections = _run_table(con, info, "detections", {"run"})
    changes = _run_table(con, info, "changes", {"run"})
    suspects = _run_table(con, info, "suspects", {"run"})
    with staged(con, "given", prompts), staged(con, "found", predictions), staged(con, "detected", detections):
        _check_run(con, info.id)
        con.execute("INSERT INTO prompts SELECT ?, * FROM given", [info.id])
        con.execute(
            "INSERT INTO predictions SELECT ?, p.*, q.kind, q.origin, q.prompt_seed, q.split, q.cut "
            "FROM found p JOIN given q ON p.prompt_id = q.prompt_id",
            [info.id],
        )
        con.execute("INSERT INTO detections SELECT ?, * FROM detected", [info.id])
    with staged(con, "suspected", suspects):
        con.execute("INSERT INTO suspects SELECT ?, * FROM suspected", [info.id])
    with staged(con, "mended", changes):
        con.execute("INSERT INTO changes SELECT ?, * FROM mended", [info.id])
    checkpoint = info.checkpoint or info.parent or "zero-shot"
    created = info.created.replace(tzinfo=None)
    values = _own_values(con, info)
    with staged(con, "found", values):
        con.execute("INSERT INTO own_values FROM found")
    vectors = _add_vectors(con, info)
    row = [info.id, info.kind, info.parent, checkpoint, info.encoder, info.split, created, to_json(info.raw)]
    con.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [*row, info.labels_version])
    return vectors + sum(table.num_rows for table in (prompts, predictions, detections, suspects, changes, values))


def _add_vectors(con: Connection, info: RunInfo) -> int:
    """Add a run's vectors, in place of those that earlier runs made of the same cells alike; return how many."""
    found = _run_table(con, info, "cell_vectors", {"run", "encoder", "checkpoint"})
    if not found.num_rows:
        return 0
    if len(found["cell"].unique()) != found.num_rows:
        raise RunError(f"run {info.id} is damaged: cell_vectors.parquet has a cell twice; {_RESTORE}")
    key = [info.encoder, info.config.get("tokens_of")]
    same = "have.cell = found.cell AND have.encoder = ? AND have.checkpoint IS NOT DISTINCT FROM ?"
    with staged(con, "found", found):
        con.execute(f"DELETE FROM cell_vectors AS have USING found WHERE {same} AND have.run < ?", [*key, info.id])
        con.execute(
            "INSERT INTO cell_vectors SELECT ?, ?, ?, found.* FROM found "
            f"WHERE NOT EXISTS (SELECT 1 FROM cell_vectors AS have WHERE {same})",
            [info.id, *key, *key],
        )
    return int(found.num_rows)


def _own_values(con: Connection, info: RunInfo) -> pa.Table:
    """Return the values of a run of users' own columns, one row each; no rows of another kind of run."""
    schema = schema_of(con, "own_values")
    data = info.read(OWN_FILE)
    if data is None:
        return schema.empty_table()
    try:
        return own_values(data, info, schema)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = f"{OWN_FILE} cannot be read ({first_line(error)})"
        raise RunError(f"run {info.id} is damaged: {why}; {_RESTORE}") from None


def _check_run(con: Connection, run: str) -> None:
    """Refuse a run that would break what the catalog promises: no prompt twice, no orphans, no cell scored twice."""
    checks = {
        "prompts.parquet has prompt_id {} twice": "SELECT prompt_id FROM given GROUP BY ALL HAVING count(*) > 1",
        "predictions.parquet has prompt_id {} for a cell that prompts.parquet has it not for": (
            "SELECT prompt_id FROM found ANTI JOIN given USING (prompt_id, cell)"
        ),
        "it scores (prompt, prompt_seed, cell) {} twice": (
            "SELECT concat_ws(', ', q.kind, q.prompt_seed, p.cell) FROM found p "
            "JOIN given q ON p.prompt_id = q.prompt_id GROUP BY q.kind, q.prompt_seed, p.cell HAVING count(*) > 1"
        ),
    }
    for what, sql in checks.items():
        rows = con.execute(f"{sql} LIMIT 1").fetchall()
        if rows:
            raise RunError(f"run {run} is damaged: {what.format(rows[0][0])}; {_RESTORE}")


def _run_table(con: Connection, info: RunInfo, table: str, without: set[str]) -> pa.Table:
    schema, name = schema_of(con, table, without), f"{table}.parquet"
    data = info.read(name)
    if data is None:
        return schema.empty_table()
    try:
        return _read_parquet(data, table, schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        why = f"{name} cannot be read ({first_line(error)})"
        raise RunError(f"run {info.id} is damaged: {why}; {_RESTORE}") from None


def _read_parquet(data: bytes, table: str, schema: pa.Schema) -> pa.Table:
    """Read exactly the columns and types of ``schema``; a column that is not required and not there is NULL."""
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        there = set(file.schema_arrow.names)
        lacking = sorted(_REQUIRED[table] - there)
        if lacking:
            raise ValueError(f"no column {', '.join(lacking)}")
        rows = file.read([name for name in schema.names if name in there])
    columns = [
        rows[field.name].cast(field.type) if field.name in there else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _read_jsonl(path: Path) -> pa.Table:
    options = pj.ParseOptions(explicit_schema=_LEDGER, unexpected_field_behavior="ignore")
    try:
        data = path.read_bytes()
        if not data.strip():
            return _LEDGER.empty_table()
        rows = pj.read_json(BytesIO(data), parse_options=options).select(_LEDGER.names)
        if rows["view"].null_count or rows["row"].null_count:
            raise ValueError("a line without view or row")
        return rows
    except (pa.ArrowException, OSError, ValueError) as error:
        way_out = "delete it and run `hela-store embed`: its views are encoded again"
        raise StoreError(f"{path} is damaged ({first_line(error)}); {way_out}") from None
