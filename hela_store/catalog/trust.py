"""Believe of a catalog file only the base tables of schema.sql, with the rows that were written.

A catalog comes with a store that somebody else may have sent. Views, macros and triggers are programs, so access to
files is closed and the configuration locked before the first statement, and whatever schema.sql does not make, or
makes in another way, is a reason to make the catalog again. The sums of all tables are kept in ``table_sums``: rows
that were altered later do not have them. Whoever alters rows can alter these sums as well; ``hela-store verify``
therefore compares the rows with the files of the store.
"""

from __future__ import annotations

import functools

import duckdb

from hela_store.base.files import digest

from .rows import schema_text
from .staged import Connection

CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
}
"""Configuration of every connection to a catalog."""
SUMS = "table_sums"
Object = tuple[str, str, str, str]
_MADE = """
    SELECT 'table' AS kind, schema_name, table_name AS name, sql FROM duckdb_tables() WHERE database_name = $name
    UNION ALL SELECT 'view', schema_name, view_name, sql FROM duckdb_views()
        WHERE NOT internal AND database_name = $name
"""
"""What schema.sql makes."""
_OBJECTS = f"""{_MADE}
    UNION ALL SELECT 'macro', schema_name, function_name, macro_definition FROM duckdb_functions()
        WHERE NOT internal AND database_name = $name
    UNION ALL SELECT 'type', schema_name, type_name, logical_type FROM duckdb_types()
        WHERE NOT internal AND database_name = $name
    UNION ALL SELECT 'sequence', schema_name, sequence_name, sql FROM duckdb_sequences() WHERE database_name = $name
    UNION ALL SELECT 'index', schema_name, index_name, sql FROM duckdb_indexes() WHERE database_name = $name
    UNION ALL SELECT 'trigger', schema_name, trigger_name, sql FROM duckdb_triggers() WHERE database_name = $name
    UNION ALL SELECT 'schema', schema_name, schema_name, sql FROM duckdb_schemas()
        WHERE database_name = $name AND NOT internal AND schema_name <> 'main'
"""
"""All that a database can hold beside rows."""


def close_access(con: Connection) -> None:
    """Close a connection to all files but the attached catalog, for good; before any statement reads from it."""
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


@functools.cache
def schema_digest() -> str:
    """Return the digest by which a catalog says what made it: schema.sql and the version of DuckDB."""
    return digest(schema_text(), duckdb.__version__)


def objects(con: Connection) -> frozenset[Object]:
    """Return everything that the attached catalog has beside rows: kind, schema, name and definition of each.

    The connection must use another database, so that a macro of the catalog cannot stand for a function of DuckDB.
    """
    return _listed(con, _OBJECTS, "catalog")


def foreign(found: frozenset[Object]) -> str:
    """Return in words what :func:`objects` found that schema.sql does not make, or lacks; empty if there is nothing."""
    own = _own_objects()
    for kind, schema, name, sql in sorted(found - own):
        changed = any((kind, schema, name) == each[:3] for each in own)
        return f"its {kind} {name!r} is not the one made here" if changed else f"it has a {kind} {name!r} ({sql:.40})"
    return "".join(f"it has no {kind} {name!r}" for kind, _, name, _ in sorted(own - found)[:1])


def is_of_another_version(con: Connection, found: frozenset[Object]) -> bool:
    """Whether the attached catalog says that it was made with another schema; only a base table is asked."""
    if not any(each[:3] == ("table", "main", "catalog_schema") for each in found):
        return False
    return con.execute("SELECT digest FROM catalog.main.catalog_schema").fetchall() != [(schema_digest(),)]


def table_sums(con: Connection) -> dict[str, tuple[int, str]]:
    """Return of each table of the catalog in use the number of rows and a sum over them, in whatever order they lie."""
    tables = sorted(name for kind, _, name, _ in _own_objects() if kind == "table" and name != SUMS)
    each = " UNION ALL ".join(
        f"SELECT '{name}', count(*), coalesce(sum(hash(*COLUMNS(*))), 0)::VARCHAR FROM {name}" for name in tables
    )
    return {name: (count, total) for name, count, total in con.execute(each).fetchall()}


def record_sums(con: Connection) -> None:
    """Write the sums of all tables into the catalog in use, inside a transaction."""
    con.execute(f"DELETE FROM {SUMS}")
    con.executemany(f"INSERT INTO {SUMS} VALUES (?, ?, ?)", [[name, *row] for name, row in table_sums(con).items()])


def altered(con: Connection) -> list[str]:
    """Return the tables of the catalog in use that do not have the sums that were recorded."""
    recorded = {name: (rows, total) for name, rows, total in con.execute(f"FROM {SUMS}").fetchall()}
    return [name for name, found in table_sums(con).items() if recorded.get(name) != found]


@functools.cache
def _own_objects() -> frozenset[Object]:
    with duckdb.connect(config=CLOSED) as con:
        for statement in con.extract_statements(schema_text()):
            if statement.type.name == "CREATE":  # comments take ten times as long
                con.execute(statement)
        return _listed(con, _MADE, "memory")


def _listed(con: Connection, sql: str, database: str) -> frozenset[Object]:
    rows = con.execute(sql, {"name": database}).fetchall()
    return frozenset((str(kind), str(schema), str(name), str(definition)) for kind, schema, name, definition in rows)
