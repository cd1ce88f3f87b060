"""The catalog: one DuckDB file that knows every frame, cell, view, run, prompt and prediction of a store.

It is an index and never the only copy of anything (tables: ``schema.sql``). Nobody writes into the file readers see:
under a file lock a writer copies it, adds what is missing and renames the copy over it. So readers and writers never
wait for each other, a killed writer leaves the old catalog whole, and a catalog that is damaged, or was made with
another schema, is made anew without asking. So is one that holds more than tables of ours, or altered rows
(:mod:`hela_store.catalog.trust`).
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import filelock
import pyarrow as pa

from hela_store.base.files import explain_os_errors, fsync_path
from hela_store.base.names import refuse_link
from hela_store.base.scratch import clear_scratch, scratch_folder
from hela_store.base.text import first_line
from hela_store.errors import QueryError, RunError, StoreError

from . import trust
from .lent import MY_METRICS, lend, own_frames, show_own_columns
from .rows import Source, fill, listing, schema_text
from .staged import Connection
from .values import to_arrow

FILE = "catalog.duckdb"
LOCK_SECONDS = 300.0
"""How long a writer waits for the others; adding to an index of ten million predictions takes seconds."""
FOREIGN_SECONDS = 10.0
"""How long a reader waits for a program of the user's that holds the catalog open for writing."""

_NEW = f".{FILE}.new"
_ALLOWED = "SELECT (also WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT)"
_QUERY_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:select|with|from|pivot|pivot_wider)\b", re.I | re.S)


class _Damaged(StoreError):
    """A query met a damaged part of the catalog file."""


class _Stale(Exception):
    """The catalog file is missing, damaged, not wholly ours, or of another schema: make it anew."""


class _Old(_Stale):
    """The catalog file is missing, or another version made it: nothing is wrong."""


_believed: dict[Path, tuple[int, ...]] = {}
"""Which catalog files this process has checked or written, by inode, size and time of change."""


def index(store_path: Path | str) -> None:
    """Bring the catalog up to date with ``ingest/``, ``plan/``, ``ledger/`` and ``runs/``; cheap if it is.

    A file or run that vanished, or a file whose size changed, makes the catalog anew. A run folder that cannot be
    indexed holds up no other: the others are indexed first, then the error names it.

    Raises
    ------
    RunError
        A run folder is damaged, made by a newer version, not unique in (prompt, prompt_seed, cell), or not the one
        that was indexed.
    StoreError
        An ingest, plan or ledger file is damaged; no space, no permission, or the lock is held for too long.
    """
    store = _folder(store_path)
    with contextlib.suppress(_Stale), _reading(store) as con:
        if _indexed(con) == listing(store):
            return
    _bring_up_to_date(store)


def rebuild(store_path: Path | str) -> None:
    """Make the catalog anew beside the old one and put it in its place; raises as :func:`index`."""
    store = _folder(store_path)
    with _locked(store):
        _refuse(_write(store, list(listing(store).values()), copy=False))


def query(
    store_path: Path | str,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    frames: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Run one SELECT on the catalog and return its rows; what is missing from the catalog is indexed first.

    Parameters
    ----------
    sql : str
        One statement: SELECT, also as WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE or PIVOT.
    parameters : sequence or mapping, optional
        For ``?`` or ``$name`` in ``sql``.
    frames : mapping, optional
        Tables of Arrow, pandas or polars that ``sql`` can read, by their names there.

    Raises
    ------
    QueryError
        The SQL fails, is not one SELECT, or reaches for a file; a frame is no table, or its name is taken.
    RunError, StoreError
        As :func:`index`; a read-only store can be queried while its catalog is up to date.
    """
    tables = own_frames(frames or {})
    for again in (True, False):
        try:
            with opened(store_path) as con:
                lend(con, tables)
                return to_arrow(select(con, sql, parameters))
        except _Damaged:  # further in than opening it could see
            if not again:
                raise
            rebuild(store_path)
    raise AssertionError


@contextlib.contextmanager
def opened(store_path: Path | str) -> Iterator[Connection]:
    """Open the catalog for :func:`select`, up to date; what DuckDB raises meanwhile becomes an error of :func:`query`.

    For whoever pages through a result or must be able to stop it; all others call :func:`query`.
    """
    store = _folder(store_path)
    with contextlib.ExitStack() as stack:
        con = None
        with contextlib.suppress(_Stale):
            con = stack.enter_context(_reading(store))
            if _indexed(con) != listing(store):
                con = None
        if con is None:
            stack.close()
            _bring_up_to_date(store)
            try:
                con = stack.enter_context(_reading(store))
            except _Stale as reason:
                way_out = "run `hela-store catalog rebuild`"
                raise StoreError(f"{store / FILE} cannot be read ({reason}); {way_out}") from None
        with _explaining(store):
            yield con


def select(
    con: Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """Check that ``sql`` is one SELECT and return it as a lazy relation of a catalog from :func:`opened`."""
    _check_statement(con, sql)
    if MY_METRICS in sql.lower():  # made for those who ask, because it takes a quarter as long as a small query
        show_own_columns(con)
    return con.sql(sql, params=parameters)


def fault(store_path: Path | str) -> str:
    """Return what the catalog file says that the files of the store do not; empty if there is nothing.

    The tables are made again beside it, of just the files and runs that it has, and compared. A catalog that is not
    there, lags behind, or was made by another version is not at fault: whoever reads next brings it up to date.

    Raises
    ------
    RunError, StoreError
        As :func:`index`.
    """
    store = _folder(store_path)
    try:
        with _reading(store) as con:
            have, found = _indexed(con), trust.table_sums(con)
    except _Old:
        return ""
    except _Stale as reason:
        return str(reason)
    there = listing(store)
    if any(there.get(path) != source for path, source in have.items()):
        return ""
    with scratch_folder() as folder:
        again = folder / FILE
        _refuse(_write_file(again, store, [each for path, each in there.items() if path in have], empty=True))
        with _reading(again.parent) as con:
            right = trust.table_sums(con)
        _believed.pop(again, None)
    tables = sorted(name for name in right if found.get(name) != right[name])
    return f"rows of {', '.join(tables)} are not those of the store's files" if tables else ""


# ---- reading


@contextlib.contextmanager
def _reading(store: Path) -> Iterator[Connection]:
    """Open the catalog the one way every reader does: closed to files and locked, then read-only tables of ours.

    A read-only connection alone would still let SQL read and write other files. It is attached to a database in memory
    because DuckDB gives two openings of one path in a process the same instance, and so yesterday's file.
    """
    with scratch_folder() as spill:
        with contextlib.closing(duckdb.connect(config={**trust.CLOSED, "temp_directory": str(spill)})) as con:
            version = _attach(con, store / FILE)
            trust.close_access(con)
            try:
                _believe(con, store / FILE, version)
            except duckdb.Error as error:
                raise _Stale(first_line(error)) from None
            yield con


def _believe(con: Connection, path: Path, version: tuple[int, ...]) -> None:
    """Use the attached catalog if it is ours alone and its rows are those that were written; else raise ``_Stale``."""
    if _believed.get(path) != version:
        found = trust.objects(con)
        if trust.is_of_another_version(con, found):
            raise _Old("made with another schema")
        if reason := trust.foreign(found):
            raise _Stale(reason)
    con.execute("USE catalog")
    if _believed.get(path) != version and (tables := trust.altered(con)):
        raise _Stale(f"rows of {', '.join(tables)} were altered")
    _believed[path] = version


def _attach(con: Connection, path: Path) -> tuple[int, ...]:
    """Attach the file read-only; return what tells this version of it from others."""
    if not path.exists():
        raise _Old("it is not there")
    if path.is_symlink():
        raise _Stale("it is a symbolic link")
    deadline = time.monotonic() + FOREIGN_SECONDS
    wait = 0.02
    while True:
        try:
            version = _version(path)
            con.execute(f"ATTACH '{_quoted(path)}' AS catalog (READ_ONLY)")
            return version
        except duckdb.Error as error:
            line = first_line(error)
        if "set lock" not in line:
            raise _Stale(line)
        if time.monotonic() > deadline:
            raise StoreError(f"{path} is open for writing in another program ({line}); close it there")
        time.sleep(wait)
        wait = min(2 * wait, 0.5)


def _version(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _indexed(con: Connection) -> dict[str, Source]:
    try:
        rows = con.execute("SELECT path, kind, bytes, sum FROM indexed").fetchall()
    except duckdb.Error as error:
        raise _Stale(first_line(error)) from None
    return {row[0]: Source(*row) for row in rows}


@contextlib.contextmanager
def _explaining(store: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.PermissionException as error:
        line = first_line(error)
        raise QueryError(f"the catalog is closed to files: {line}; SHOW TABLES lists what can be read") from None
    except duckdb.Error as error:
        if _is_damage(error):
            line = first_line(error)
            raise _Damaged(f"{store / FILE} is damaged ({line}); run `hela-store catalog rebuild`") from None
        raise QueryError(_explained(error)) from None


def _check_statement(con: Connection, sql: str) -> None:
    statements = con.extract_statements(sql)
    if len(statements) != 1:
        found = f"{len(statements)} statements" if statements else "no statement"
        raise QueryError(f"found {found}, expected one {_ALLOWED}")
    kind = statements[0].type.name
    # A PIVOT is several statements to DuckDB, and so is `COPY (PIVOT ...) TO`, which may write into the catalog's file.
    if kind != "SELECT" and not (kind == "MULTI" and _QUERY_WORD.match(sql)):
        word = "this" if kind == "MULTI" else kind
        raise QueryError(f"the catalog is read-only: {word} is refused, expected {_ALLOWED}")


def _is_damage(error: duckdb.Error) -> bool:
    kinds = (duckdb.IOException, duckdb.SerializationException, duckdb.InternalException, duckdb.FatalException)
    return isinstance(error, kinds) or "Corrupt database file" in str(error)


def _explained(error: duckdb.Error) -> str:
    """Return DuckDB's message as one line, hints included, up to where it repeats the query."""
    return " ".join(line.strip() for line in str(error).partition("\n\n")[0].splitlines())


# ---- writing


def _bring_up_to_date(store: Path) -> None:
    """Index what is missing, unless another process did while this one waited for the lock."""
    with _locked(store):
        there = listing(store)
        refused: list[RunError] | None = None
        with contextlib.suppress(_Stale):
            with _reading(store) as con:
                have = _indexed(con)
            if have == there:
                return
            _refuse_changed(have, there)
            if all(there.get(path) == source for path, source in have.items()):
                refused = _write(store, [each for path, each in there.items() if path not in have], copy=True)
        if refused is None:
            refused = _write(store, list(there.values()), copy=False)
        _refuse(refused)


def _refuse_changed(have: Mapping[str, Source], there: Mapping[str, Source]) -> None:
    """Raise where a run is another than when it was indexed: a published run never changes."""
    for path, source in have.items():
        now = there.get(path)
        if source.kind == "run" and now is not None and now.sum != source.sum:
            found = "changed" if now.sum else "is not there any more"
            raise RunError(
                f"run {Path(path).name} is not the one that was indexed: its manifest.json {found}; restore the "
                "folder, or take the run as it is now with `hela-store catalog rebuild`"
            )


def _write(store: Path, sources: list[Source], *, copy: bool) -> list[RunError]:
    """Put a catalog with ``sources`` in place: added to a copy of the present one, or to an empty one.

    Raises ``_Stale`` where the present one turns out to be damaged.
    """
    new, live = store / _NEW, store / FILE
    try:
        with explain_os_errors(f"indexing {store}"):
            _remove(new)
            if copy:
                shutil.copyfile(live, new)
            refused = _write_file(new, store, sources, empty=not copy)
            fsync_path(new)
            version = _version(new)
            # Left by some other program that was killed; DuckDB would apply it to the new file.
            live.with_name(f"{FILE}.wal").unlink(missing_ok=True)
            new.replace(live)
            fsync_path(store)
        _believed[live] = version  # its rows are those that were just counted here
        return refused
    except duckdb.Error as error:
        full = "No space left" in str(error)
        if copy and not full:
            raise _Stale(first_line(error)) from None
        reason = "no space left" if full else first_line(error)
        raise StoreError(f"{live} cannot be written: {reason}; what was there is unchanged, try again") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(new)


def _write_file(new: Path, store: Path, sources: list[Source], *, empty: bool) -> list[RunError]:
    clear_scratch()
    if empty:
        new.write_bytes(_empty())
    with _writing(new) as con:
        refused = fill(con, store, sources)
        trust.record_sums(con)
    return refused


@functools.cache
def _empty() -> bytes:
    """Return a catalog without rows: its comments take longer than the rows of a small store."""
    with scratch_folder() as folder:
        path = folder / FILE
        with _writing(path) as con:
            con.execute(schema_text())
            con.execute("INSERT INTO catalog_schema VALUES (?)", [trust.schema_digest()])
        return path.read_bytes()


@contextlib.contextmanager
def _writing(new: Path) -> Iterator[Connection]:
    """Open a catalog that nobody reads yet, closed to all other files, for one transaction."""
    with scratch_folder() as spill:
        with contextlib.closing(duckdb.connect(config={**trust.CLOSED, "temp_directory": str(spill)})) as con:
            con.execute(f"ATTACH '{_quoted(new)}' AS catalog")
            trust.close_access(con)
            con.execute("USE catalog")
            con.execute("BEGIN")
            yield con
            con.execute("COMMIT")
            con.execute("USE memory")
            con.execute("DETACH catalog")


def _refuse(refused: list[RunError]) -> None:
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise RunError(f"{refused[0]}{more}")


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    refuse_link(store / "catalog.lock")
    lock = filelock.FileLock(store / "catalog.lock", timeout=LOCK_SECONDS)
    try:
        with explain_os_errors(f"bringing {store / FILE} up to date"):
            lock.acquire()
    except filelock.Timeout:
        found = f"{store / 'catalog.lock'} was held by another process for {LOCK_SECONDS:.0f} s"
        raise StoreError(f"{found}; wait for it or end it, then try again") from None
    try:
        yield
    finally:
        lock.release()


def _folder(store_path: Path | str) -> Path:
    store = Path(store_path)
    if not store.is_dir():
        raise StoreError(f"no store at {store}; make one with `hela-store new`")
    return store.absolute()


def _remove(new: Path) -> None:
    for path in (new, new.with_name(f"{new.name}.wal")):
        path.unlink(missing_ok=True)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
