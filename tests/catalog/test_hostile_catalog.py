"""Catalogs that came with a store from somewhere else: programs in them never run, altered rows are never believed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from hela_store.catalog import index as catalog
from hela_store.catalog import trust
from hela_store.errors import QueryError
from hela_store.integrity.verify import verify
from hela_store.store.store import Store


def some(cases: Iterable[str]) -> list[Any]:
    """Return the cases, of which every third is in the usual run."""
    return [
        case if number % 3 == 0 else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)
    ]


@pytest.fixture
def path(scored: Path, tmp_path: Path) -> Path:
    """A store with runs and an indexed catalog, to be changed."""
    path = tmp_path / "inside" / "store"
    shutil.copytree(scored, path)
    catalog.rebuild(path)
    return path


def others(path: Path) -> set[Path]:
    """All there is beside the store."""
    return {each for each in path.parents[1].rglob("*") if path not in each.parents and each != path}


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with duckdb.connect(path / catalog.FILE, read_only=True) as con:
        names = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {name: sorted(con.execute(f"FROM {name}").fetchall(), key=repr) for name in names}


LOG = "enable_logging(storage_path='{out}', level='trace')"
VIEWS = {
    "schema": "DROP TABLE catalog_schema; CREATE VIEW catalog_schema AS SELECT '{digest}' AS digest FROM (SELECT count(*) FROM "
    + LOG
    + ")",
    "indexed": "DROP TABLE indexed; CREATE VIEW indexed AS SELECT ''::VARCHAR AS path, '' AS kind, 0::BIGINT AS bytes FROM (SELECT count(*) FROM "
    + LOG
    + ")",
    "profiling": "DROP TABLE indexed; CREATE VIEW indexed AS SELECT 1 FROM enable_profiling(save_location='{out}')",
    "copied": "DROP TABLE indexed; CREATE VIEW indexed AS SELECT filename AS path, '' AS kind, size AS bytes FROM read_blob('{secret}')",
    "shadowed": "CREATE OR REPLACE VIEW cell_metrics AS SELECT content FROM read_text('{secret}')",
    "macro": "CREATE MACRO duckdb_tables() AS TABLE SELECT 'catalog' AS database_name, 'main' AS schema_name, 'x' AS table_name, '' AS sql",
    "scalar macro": "CREATE MACRO count(x) AS 0",
    "type": "CREATE TYPE mood AS ENUM ('a')",
    "sequence": "CREATE SEQUENCE counter",
    "index": "CREATE INDEX by_cell ON cell_versions (cell)",
    "schema of its own": "CREATE SCHEMA more; CREATE TABLE more.frames AS FROM frames",
    "table of its own": "CREATE TABLE more AS SELECT 1",
    "trigger": "CREATE TRIGGER more AFTER INSERT ON runs FOR EACH STATEMENT INSERT INTO cell_versions (cell) SELECT 'forged'",
    "default": "DROP TABLE runs; CREATE TABLE runs (id VARCHAR DEFAULT ('forged'), kind VARCHAR)",
    "column": "ALTER TABLE frames ADD COLUMN more VARCHAR",
    "lost": "DROP TABLE detections",
}


@pytest.mark.parametrize("name", some(VIEWS))
def test_a_program_in_a_catalog_is_never_run_and_the_catalog_made_again(path: Path, name: str) -> None:
    secret, out = path.parents[1] / "secret.txt", path.parents[1] / "out"
    secret.write_text("secret")
    right, before = rows(path), others(path)
    with duckdb.connect(path / catalog.FILE) as con:
        con.execute(VIEWS[name].format(digest=trust.schema_digest(), out=out, secret=secret))
    assert "secret" not in str(catalog.query(path, "SELECT * FROM cell_metrics LIMIT 3").to_pylist())
    assert others(path) == before
    assert rows(path) == right


def test_verify_names_what_a_catalog_has_of_its_own(path: Path) -> None:
    with duckdb.connect(path / catalog.FILE) as con:
        con.execute("CREATE VIEW more AS SELECT 1")
    (fault,) = verify(Store.open(path)).faults
    assert fault.path == "catalog.duckdb"
    assert "it has a view 'more'" in fault.note and "`hela-store catalog rebuild`" in fault.note


@pytest.mark.parametrize(
    "sql",
    some(
        [
            "UPDATE predictions SET iou = 1 WHERE cell = (SELECT min(cell) FROM predictions)",
            "UPDATE runs SET split = 'test'",
            "DELETE FROM committed",
            "DELETE FROM predictions WHERE cell = (SELECT min(cell) FROM predictions)",
            "DELETE FROM indexed WHERE kind = 'cells'",
            "UPDATE frames SET height = height + 1",
            "INSERT INTO frames BY NAME SELECT '../x' AS frame, '..' AS sequence",
        ]
    ),
)
def test_altered_rows_are_named_by_verify_and_never_read(path: Path, sql: str) -> None:
    right = rows(path)
    with duckdb.connect(path / catalog.FILE) as con:
        assert con.execute(sql).fetchone() != (0,)
    report = verify(Store.open(path))
    assert [fault.path for fault in report.faults] == ["catalog.duckdb"]
    assert "were altered" in report.faults[0].note and "`hela-store catalog rebuild`" in report.faults[0].note
    catalog.query(path, "SELECT 1")
    assert rows(path) == right


def test_verify_finds_altered_rows_whose_sums_were_altered_as_well(path: Path) -> None:
    with duckdb.connect(path / catalog.FILE) as con:
        con.execute("UPDATE predictions SET iou = 1")
        trust.record_sums(con)
    (fault,) = verify(Store.open(path)).faults
    assert "rows of predictions are not those of the store's files" in fault.note
    catalog.rebuild(path)
    assert verify(Store.open(path)).whole


def test_a_catalog_that_lags_behind_is_not_at_fault(path: Path) -> None:
    newest = max((path / "runs").iterdir())
    moved = newest.rename(path.parent / newest.name)
    catalog.rebuild(path)
    moved.rename(newest)
    assert verify(Store.open(path)).whole
    (path / catalog.FILE).unlink()
    assert verify(Store.open(path)).whole


def test_a_link_in_place_of_the_catalog_is_replaced_and_not_followed(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere.duckdb"
    (path / catalog.FILE).rename(elsewhere)
    before = elsewhere.read_bytes()
    (path / catalog.FILE).symlink_to(elsewhere)
    assert "symbolic link" in verify(Store.open(path)).faults[0].note
    catalog.query(path, "SELECT 1")
    assert not (path / catalog.FILE).is_symlink() and elsewhere.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "FROM enable_logging(storage_path='{out}')",
        "FROM enable_profiling(save_location='{out}')",
        "FROM query('FROM read_text(''/etc/hostname'')')",
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''/etc/hostname'')'))",
        "FROM read_duckdb('/etc/hostname')",
        "FROM add_grammar_extension('x')",
    ],
)
def test_functions_that_write_read_or_configure_are_refused(path: Path, sql: str) -> None:
    out = path.parents[1] / "out"
    with pytest.raises(QueryError):
        catalog.query(path, sql.format(out=out))
    assert not out.exists()
