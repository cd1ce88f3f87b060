"""The catalog over small stores of hand-written Parquet and JSON lines; real DuckDB, real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hela_store
from hela_store.catalog import index as catalog
from hela_store.errors import HelaError, QueryError, RunError, StoreError
from hela_store.runs.folder import RunFolder, new_run

CELL_METRICS = (
    "run kind checkpoint encoder prompt prompt_origin prompt_seed split sequence frame time view cell label area "
    "diameter touches_neighbour touches_border is_bright_small is_dim cut iou dice predicted_iou is_empty boundary_iou "
    "hd95 nsd1 nsd2 spill failure labels_version trained_labels_version"
).split()
TABLES = [
    "frames",
    "cell_versions",
    "label_events",
    "plans",
    "committed",
    "runs",
    "prompts",
    "predictions",
    "detections",
    "changes",
    "suspects",
    "own_values",
    "cell_vectors",
    "indexed",
    "catalog_schema",
    "table_sums",
]
VIEWS = ["cells", "cells_at", "cell_subsets", "views", "cell_metrics", "test_scorings"]
FRAMES, CELLS = 3, 4


# ---- a store by hand


def frames_table(first: int = 0, count: int = FRAMES) -> pa.Table:
    rows = [
        {
            "frame": f"01/t{t:03d}", "sequence": "01", "name": f"t{t:03d}", "time": t, "height": 64, "width": 96,
            "dtype": "uint16", "group": "01", "row": t, "sha256": f"{t:064x}", "has_label": True, "partial": False,
            "label_origin": "ST", "pixel_size_um": None, "is_blank": False,
        }
        for t in range(first, first + count)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def cells_table(first: int = 0, count: int = FRAMES) -> pa.Table:
    rows = [
        {
            "cell": f"01/t{t:03d}#{label}", "frame": f"01/t{t:03d}", "label": label, "area": 100 * label,
            "area_um2": None, "diameter": 11.3 * label, "x0": 1, "y0": 2, "x1": 11, "y1": 12, "cx": 5.5, "cy": 6.5, "eccentricity": 0.5,
            "touches_neighbour": label % 2 == 0, "touches_border": label == 1, "mean_intensity": 123.0,
            "round_trip_iou": 0.98,
        }
        for t in range(first, first + count)
        for label in range(1, CELLS + 1)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def plan_table(first: int = 0, count: int = FRAMES, row: int = 0) -> pa.Table:
    rows = [
        {
            "view": f"view-{t}-{tile}", "frame": f"01/t{t:03d}", "tile": tile, "variant": 0, "x0": 0, "y0": 0,
            "width": 64, "height": 64, "lo": 1.0, "hi": 99.0, "seed": 0, "params": "{}", "row": row + 2 * (t - first) + tile,
        }
        for t in range(first, first + count)
        for tile in range(2)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def put(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def commit(store: Path, number: int, views: list[tuple[str, int]], encoder: str = "nano-0123") -> None:
    path = store / "ledger" / encoder / f"{number}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"view": v, "row": r, "sha256": "ab"}) + "\n" for v, r in views))


def run_rows(
    seeds: int = 2, kinds: tuple[str, ...] = ("box", "point"), split: str = "test"
) -> tuple[pa.Table, pa.Table]:
    prompts, predictions = [], []
    for kind in kinds:
        for seed in range(seeds):
            for cell in cells_table().to_pylist():
                shared = {"prompt_id": f"{kind}-{seed}-{cell['cell']}", "cell": cell["cell"], "frame": cell["frame"]}
                shared["view"] = f"view-{int(cell['frame'][-3:])}-0"
                box = {key: float(cell[key]) if kind == "box" else None for key in ("x0", "y0", "x1", "y1")}
                point = {
                    "points": [5.5, 6.5] if kind == "point" else [],
                    "point_labels": [1] if kind == "point" else [],
                }
                prompts.append(
                    shared | box | point
                    | {"kind": kind, "origin": "truth", "prompt_seed": seed, "split": split, "params": "{}"}
                    | {"prompt_iou": None, "free_iou": 0.8, "free_dice": 0.9, "cut": cell["label"] == 3}
                    | {"free_ellipse_iou": None}
                )  # fmt: skip
                predictions.append(
                    shared
                    | {"iou": 0.1 * cell["label"], "dice": 0.2, "predicted_iou": 0.9, "is_empty": False}
                    | {"rle": "abc", "rle_height": 64, "rle_width": 96}
                )
    schema = pa.schema(
        [("x0", pa.float64()), ("points", pa.list_(pa.float64())), ("point_labels", pa.list_(pa.int64()))]
    )
    table = pa.Table.from_pylist(prompts)
    for name in schema.names:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(schema.field(name).type))
    return table, pa.Table.from_pylist(predictions)


def start_run(store: Path, kind: str = "evaluate", checkpoint: str | None = None, split: str = "test") -> RunFolder:
    config = {"encoder": "nano-0123", "checkpoint": checkpoint, "split": split, "prompts": ["box", "point"], "lr": 1e-4}
    run = new_run(store, kind, config, parent=checkpoint)
    if kind == "evaluate":
        prompts, predictions = run_rows(split=split)
        run.write_table("prompts", prompts)
        run.write_table("predictions", predictions)
    return run


def add_run(store: Path, **how: Any) -> str:
    run = start_run(store, **how)
    run.publish()
    return run.id


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed store of 3 frames, 12 cells, 6 views of which 4 are committed, a fine-tuning and its evaluation.

    Tests that use it do not change it.
    """
    store = tmp_path_factory.mktemp("shared") / "it's [a] store"
    put(store / "ingest/frames-0.parquet", frames_table())
    put(store / "ingest/cells-0.parquet", cells_table())
    put(store / "plan/aaaa.parquet", plan_table())
    commit(store, 0, [("view-0-0", 0), ("view-0-1", 1)])
    commit(store, 1, [("view-1-0", 2), ("view-1-1", 3)])
    add_run(store, checkpoint=add_run(store, kind="finetune", split="train"))
    (store / "in.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"a": [1]}), store / "in.parquet")
    catalog.index(store)
    return store


@pytest.fixture
def store(tmp_path: Path, shared: Path) -> Path:
    """A copy of the shared store, to be changed."""
    return Path(shutil.copytree(shared, tmp_path / shared.name))


def count(store: Path, table: str) -> int:
    return int(catalog.query(store, f"SELECT count(*) AS n FROM {table}")["n"][0].as_py())


def dump(store: Path) -> dict[str, list[Any]]:
    """All rows of all tables and views, as the catalog file has them now."""
    with duckdb.connect(store / catalog.FILE, read_only=True) as con:
        names = [row[0] for row in con.execute("SELECT table_name FROM information_schema.tables").fetchall()]
        return {name: sorted(con.execute(f"FROM {name}").fetchall(), key=repr) for name in names}


# ---- what is in it


def test_every_file_and_run_is_indexed(shared: Path) -> None:
    rows = {name: len(found) for name, found in dump(shared).items()}
    assert set(rows) == {*TABLES, *VIEWS}
    assert rows["frames"] == FRAMES and rows["cells"] == FRAMES * CELLS and rows["plans"] == rows["views"] == 6
    assert rows["committed"] == 4 and rows["runs"] == 2
    assert rows["prompts"] == rows["predictions"] == rows["cell_metrics"] == 4 * FRAMES * CELLS


def test_cell_metrics_has_exactly_the_columns_of_the_design(shared: Path) -> None:
    table = catalog.query(shared, "FROM cell_metrics ORDER BY prompt, prompt_seed, cell")
    assert table.column_names == CELL_METRICS
    first = table.slice(2, 1).to_pylist()[0]
    finetune, evaluate = catalog.query(shared, "SELECT id FROM runs ORDER BY kind DESC")["id"].to_pylist()
    assert first == {
        "run": evaluate, "kind": "evaluate", "checkpoint": finetune, "encoder": "nano-0123", "prompt": "box",
        "prompt_origin": "truth", "prompt_seed": 0, "split": "test", "sequence": "01", "frame": "01/t000", "time": 0,
        "view": "view-0-0", "cell": "01/t000#3", "label": 3, "area": 300, "diameter": pytest.approx(33.9),
        "touches_neighbour": False, "touches_border": False, "cut": True, "iou": pytest.approx(0.3), "dice": 0.2,
        "predicted_iou": 0.9, "is_empty": False, "is_bright_small": False, "is_dim": False, "boundary_iou": None,
        "hd95": None, "nsd1": None, "nsd2": None, "spill": None, "failure": None, "labels_version": 0,
        "trained_labels_version": 0,
    }  # fmt: skip
    keys = catalog.query(shared, "SELECT run, prompt, prompt_seed, cell FROM cell_metrics").to_pylist()
    assert len({tuple(row.values()) for row in keys}) == len(keys)


def test_tables_have_the_columns_of_the_parquet_files(shared: Path) -> None:
    def columns(table: str) -> list[str]:
        return catalog.query(shared, f"FROM {table} LIMIT 0").column_names

    assert columns("frames") == frames_table().column_names
    assert columns("cells") == cells_table().column_names
    assert columns("views") == plan_table().column_names
    prompts, predictions = run_rows()
    assert set(columns("prompts")) == {"run", *prompts.column_names}
    assert {"run", *predictions.column_names} <= set(columns("predictions"))


def test_every_table_and_column_says_what_it_is(shared: Path) -> None:
    silent = catalog.query(
        shared,
        "SELECT table_name FROM duckdb_tables() WHERE comment IS NULL AND NOT internal UNION ALL "
        "SELECT view_name FROM duckdb_views() WHERE comment IS NULL AND NOT internal UNION ALL "
        "SELECT table_name || '.' || column_name FROM duckdb_columns() WHERE comment IS NULL AND NOT internal "
        "AND table_name NOT IN ('views', 'catalog_schema')",
    )
    assert silent.to_pylist() == []


def test_runs_keep_their_configuration_and_test_scorings_are_counted(store: Path) -> None:
    add_run(store)
    add_run(store, split="all")
    add_run(store, split="val")
    rows = catalog.query(store, "FROM test_scorings").to_pylist()
    finetune = catalog.query(store, "SELECT id, config->'config'->>'lr' AS lr FROM runs WHERE kind = 'finetune'")
    assert finetune["lr"].to_pylist() == ["0.0001"]
    assert {row["checkpoint"]: row["scorings"] for row in rows} == {finetune["id"][0].as_py(): 1, "zero-shot": 2}


def test_runs_from_before_the_boundary_metrics_have_null_in_their_columns(shared: Path) -> None:
    new = "boundary_iou, hd95, nsd1, nsd2, spill, failure"
    rows = catalog.query(shared, f"SELECT DISTINCT {new} FROM cell_metrics").to_pylist()
    assert rows == [dict.fromkeys(new.split(", "))]


def test_subsets_are_fifths_of_a_frame(store: Path) -> None:
    """Ten cells of areas and intensities that run against each other, but for one bright and small."""
    area = [100 - i for i in range(10)]
    light = [10.0 * i for i in range(10)]
    given = cells_table().slice(0, 1).to_pylist()[0]
    rows = [
        given | {"cell": f"01/t000#{i + 1}", "label": i + 1, "area": area[i], "mean_intensity": light[i]}
        for i in range(10)
    ]
    put(store / "ingest/cells-0.parquet", pa.Table.from_pylist(rows).cast(cells_table().schema))
    found = catalog.query(
        store, "SELECT label, is_bright_small, is_dim FROM cell_subsets JOIN cells USING (cell) ORDER BY 1"
    ).to_pylist()
    assert [row["label"] for row in found if row["is_bright_small"]] == [9, 10]
    assert [row["label"] for row in found if row["is_dim"]] == [1, 2]
    put(store / "ingest/cells-0.parquet", pa.Table.from_pylist(rows[:4]).cast(cells_table().schema))
    assert count(store, "cell_subsets WHERE is_bright_small OR is_dim") == 0


def test_a_cell_without_a_row_in_cells_is_not_lost_from_cell_metrics(store: Path) -> None:
    put(store / "ingest/cells-0.parquet", cells_table().slice(1))
    assert count(store, "cell_metrics") == 4 * FRAMES * CELLS
    assert count(store, "cell_metrics WHERE label IS NULL") == 4


def test_an_empty_store_has_empty_tables(tmp_path: Path) -> None:
    assert count(tmp_path, "cell_metrics") == 0


def test_a_missing_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        catalog.query(tmp_path / "nope", "SELECT 1")
    assert not (tmp_path / "nope").exists()


# ---- incremental and rebuilt


def test_index_is_idempotent_and_adds_only_what_is_missing(store: Path) -> None:
    catalog.index(store)
    before, stamp = dump(store), (store / catalog.FILE).stat()
    catalog.index(store)
    assert (store / catalog.FILE).stat().st_mtime_ns == stamp.st_mtime_ns

    put(store / "ingest/frames-1.parquet", frames_table(2, 2))  # t002 is there already
    put(store / "ingest/cells-1.parquet", cells_table(2, 2))
    put(store / "plan/bbbb.parquet", plan_table(2, 2, row=4))
    commit(store, 2, [("view-2-0", 4)])
    run = add_run(store)
    assert count(store, "frames") == 4 and count(store, "cells") == 16
    assert count(store, "plans") == 10 and count(store, "views") == 8 and count(store, "committed") == 5
    assert count(store, f"cell_metrics WHERE run = '{run}'") == 4 * FRAMES * CELLS
    after = dump(store)
    assert all(set(map(repr, before[name])) <= set(map(repr, after[name])) for name in TABLES[:-1])

    catalog.rebuild(store)
    assert dump(store) == after


def test_deleted_and_rebuilt_without_the_data_set_every_table_is_equal(store: Path) -> None:
    for _ in range(2):  # grown run by run
        add_run(store)
        catalog.index(store)
    before = dump(store)
    (store / catalog.FILE).unlink()
    catalog.rebuild(store)
    assert dump(store) == before
    moved = store.with_name("elsewhere")
    shutil.copytree(store, moved, ignore=shutil.ignore_patterns("catalog*"))
    catalog.index(moved)
    assert dump(moved) == before


def test_partial_runs_and_strangers_are_never_read(store: Path) -> None:
    before = dump(store)
    run = start_run(store)
    (store / "runs/notes").mkdir()
    (store / "runs/.ipynb_checkpoints").mkdir()
    (store / "ingest/.frames-9.parquet.tmp").write_bytes(b"half")
    (store / "ledger/README").write_text("not a folder")
    catalog.index(store)
    assert dump(store) == before
    run.publish()
    assert count(store, "runs") == 3


def test_a_run_that_was_deleted_leaves_the_catalog(store: Path) -> None:
    run = add_run(store)
    assert count(store, "runs") == 3
    shutil.rmtree(store / "runs" / run)
    assert count(store, "runs") == 2
    assert count(store, f"predictions WHERE run = '{run}'") == 0


def test_a_rewritten_plan_is_indexed_anew(store: Path) -> None:
    assert count(store, "views") == 6
    put(store / "plan/aaaa.parquet", plan_table(0, FRAMES + 1))
    assert count(store, "views") == 8


def test_a_later_ledger_segment_has_the_last_word_also_beyond_nine(store: Path) -> None:
    commit(store, 9, [("view-0-0", 7)])
    commit(store, 10, [("view-0-0", 8), ("view-0-0", 9)])
    commit(store, 0, [("view-0-0", 5)], encoder="vit_b-4567")
    assert count(store, "committed") == 5
    sql = "SELECT encoder, row FROM committed WHERE view = 'view-0-0' ORDER BY encoder"
    expected = [{"encoder": "nano-0123", "row": 9}, {"encoder": "vit_b-4567", "row": 5}]
    assert catalog.query(store, sql).to_pylist() == expected
    catalog.rebuild(store)
    assert catalog.query(store, sql).to_pylist() == expected


# ---- SQL


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT prompt, avg(iou), avg(dice) FROM cell_metrics GROUP BY ALL",
        "FROM cells",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a;",
        "VALUES (1)",
        "SHOW TABLES",
        "DESCRIBE cell_metrics",
        "SUMMARIZE cells",
        "PIVOT cell_metrics ON prompt USING avg(iou) GROUP BY cell",
        "-- a comment\n/* and another */ (PIVOT cells ON label USING avg(area) GROUP BY frame)",
        "WITH a AS (PIVOT cells ON label USING avg(area) GROUP BY frame) SELECT * FROM a",
        "FROM cells PIVOT (avg(area) FOR label IN (1, 2) GROUP BY frame)",
        "SELECT quantile_cont(iou, 0.5), list(DISTINCT prompt) FROM cell_metrics",
        "SELECT config->'config' FROM runs",
        "SELECT row_number() OVER (PARTITION BY run ORDER BY iou) FROM cell_metrics",
    ],
)
def test_queries_run(shared: Path, sql: str) -> None:
    assert catalog.query(shared, sql).num_rows > 0


def test_parameters(shared: Path) -> None:
    assert catalog.query(shared, "SELECT cell FROM cells WHERE label = ? AND frame = ?", [2, "01/t001"]).num_rows == 1
    assert catalog.query(shared, "SELECT cell FROM cells WHERE label = $n", {"n": 2}).num_rows == FRAMES
    with pytest.raises(QueryError):
        catalog.query(shared, "SELECT cell FROM cells WHERE label = ?")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("INSERT INTO frames SELECT * FROM frames", "read-only: INSERT"),
        ("UPDATE cells SET area = 0", "read-only: UPDATE"),
        ("DELETE FROM runs", "read-only: DELETE"),
        ("DROP TABLE runs", "read-only: DROP"),
        ("ALTER TABLE runs ADD COLUMN x INT", "read-only: ALTER"),
        ("CREATE TABLE mine AS SELECT 1", "read-only: CREATE"),
        ("CREATE TEMP TABLE mine AS SELECT 1", "read-only: CREATE"),
        ("CREATE TABLE memory.main.mine (a INT)", "read-only: CREATE"),
        ("COPY frames TO 'out.csv'", "read-only: COPY"),
        ("COPY frames FROM 'in.csv'", "read-only: COPY"),
        ("COPY (PIVOT cells ON label USING avg(area)) TO 'out.csv'", "read-only: "),
        ("/* SELECT */ COPY (PIVOT cells ON label USING avg(area)) TO 'out.csv'", "read-only: "),
        ("CREATE TABLE x AS PIVOT cells ON label USING avg(area)", "read-only: "),
        ("EXPORT DATABASE 'out'", "read-only: EXPORT"),
        ("IMPORT DATABASE 'in'", "read-only: PRAGMA"),
        ("ATTACH 'other.duckdb'", "read-only: ATTACH"),
        ("ATTACH ':memory:' AS other", "read-only: ATTACH"),
        ("DETACH catalog", "read-only: DETACH"),
        ("USE memory", "read-only: SET"),
        ("SET enable_external_access = true", "read-only: SET"),
        ("PRAGMA enable_profiling", "read-only: PRAGMA"),
        ("INSTALL httpfs", "read-only: LOAD"),
        ("CALL enable_logging()", "read-only: CALL"),
        ("BEGIN", "read-only: TRANSACTION"),
        ("CHECKPOINT", "read-only: "),
        ("PREPARE p AS SELECT 1", "read-only: PREPARE"),
        ("EXPLAIN ANALYZE COPY frames TO 'out.csv'", "read-only: EXPLAIN"),
        ("SELECT * FROM read_csv('in.csv')", "closed to files"),
        ("SELECT * FROM read_json('in.csv')", "closed to files"),
        ("SELECT * FROM read_text('in.csv')", "closed to files"),
        ("SELECT * FROM read_parquet('in.parquet')", "closed to files"),
        ("SELECT * FROM parquet_metadata('in.parquet')", "closed to files"),
        ("SELECT * FROM glob('*')", "closed to files"),
        ("SELECT * FROM 'in.csv'", "closed to files"),
        ("SELECT * FROM 'in.parquet'", "closed to files"),
        ("SELECT * FROM 'https://example.org/a.parquet'", "closed to files"),
        ("SELECT (SELECT count(*) FROM 'in.csv') FROM cells", "closed to files"),
        ("SELECT * FROM sneaky", "sneaky"),
        ("SELECT getenv('HOME')", "getenv"),
        ("SELECT * FROM enable_logging('x')", "locked"),
        ("SELECT 1; SELECT 2", "found 2 statements"),
        ("SELECT 1; DROP TABLE runs", "found 2 statements"),
        ("", "found no statement"),
        ("  ; -- nothing", "found no statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT iuo FROM cell_metrics", "iou"),
        ("SELECT * FROM cell_metric", "cell_metrics"),
        ("SELECT 'x'::INTEGER", "Could not convert"),
    ],
)
def test_everything_else_is_refused_in_one_line(shared: Path, sql: str, says: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(shared)
    before, files = (shared / catalog.FILE).read_bytes(), sorted(os.listdir(shared))
    sneaky = pa.table({"a": [1]})  # DuckDB would find this variable by its name
    with pytest.raises(QueryError) as caught:
        catalog.query(shared, sql)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert (
        sneaky.num_rows == 1 and (shared / catalog.FILE).read_bytes() == before and sorted(os.listdir(shared)) == files
    )


def test_nothing_is_written_into_the_folder_queries_run_in(store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    catalog.query(store, "SELECT * FROM cell_metrics ORDER BY iou")
    assert os.listdir() == []
    assert sorted(path.name for path in store.iterdir() if "catalog" in path.name) in (
        ["catalog.duckdb"],
        ["catalog.duckdb", "catalog.lock"],
    )


# ---- what can be wrong


def damage_config(run: Path) -> None:
    (run / "config.json").write_text("{")


def remove_config(run: Path) -> None:
    (run / "config.json").unlink()


def newer_format(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"format": 99}))


def truncate_predictions(run: Path) -> None:
    os.truncate(run / "predictions.parquet", 200)


def remove_prompts(run: Path) -> None:
    (run / "prompts.parquet").unlink()


def drop_a_column(run: Path) -> None:
    pq.write_table(run_rows()[0].drop_columns("split"), run / "prompts.parquet")


def text_for_a_number(run: Path) -> None:
    rows = run_rows()[1]
    wrong = rows.set_column(rows.schema.get_field_index("iou"), "iou", pa.array(["high"] * rows.num_rows))
    pq.write_table(wrong, run / "predictions.parquet")


def a_cell_twice(run: Path) -> None:
    prompts, predictions = run_rows(kinds=("box",), seeds=1)
    names = pa.array([f"p{number}" for number in range(prompts.num_rows)])
    again = [table.drop_columns("prompt_id").append_column("prompt_id", names) for table in (prompts, predictions)]
    put(run / "prompts.parquet", pa.concat_tables([prompts, again[0].select(prompts.column_names)]))
    put(run / "predictions.parquet", pa.concat_tables([predictions, again[1].select(predictions.column_names)]))


def a_prompt_id_twice(run: Path) -> None:
    prompts, _ = run_rows()
    put(run / "prompts.parquet", pa.concat_tables([prompts, prompts.slice(0, 1)]))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (damage_config, "cannot be read"),
        (remove_config, "config.json is missing"),
        (newer_format, "upgrade hela-store"),
        (truncate_predictions, "predictions.parquet cannot be read"),
        (remove_prompts, "prompts.parquet"),
        (drop_a_column, "no column split"),
        (text_for_a_number, "predictions.parquet cannot be read"),
        (a_cell_twice, "twice"),
        (a_prompt_id_twice, "twice"),
    ],
)
def test_a_bad_run_is_named_and_holds_up_no_other(store: Path, harm: Any, says: str) -> None:
    bad = add_run(store)
    harm(store / "runs" / bad)
    from stores import reseal  # this file also runs as a script, which finds no helpers

    reseal(store / "runs" / bad)
    good = add_run(store)
    with pytest.raises(RunError) as caught:
        catalog.query(store, "FROM runs")
    assert bad in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)
    rows = dump(store)
    assert good in {row[0] for row in rows["runs"]} and bad not in {row[0] for row in rows["runs"]}
    assert bad not in {row[0] for row in rows["prompts"]} | {row[0] for row in rows["predictions"]}
    (store / "runs" / bad).rename(store / bad)  # the way out
    assert count(store, "runs") == 3


@pytest.mark.parametrize("path", ["ingest/frames-0.parquet", "ingest/cells-0.parquet", "plan/aaaa.parquet"])
def test_a_damaged_table_is_named(store: Path, path: str) -> None:
    before = (store / catalog.FILE).read_bytes()
    os.truncate(store / path, 100)
    with pytest.raises(StoreError, match=Path(path).name):
        catalog.query(store, "FROM runs")
    assert (store / catalog.FILE).read_bytes() == before and not list(store.glob(".catalog*"))


@pytest.mark.parametrize("text", ['{"view": "v", "row"', '{"view": "v"}\n', "[1]\n", '{"view": "v", "row": "x"}\n'])
def test_a_damaged_ledger_segment_is_named(store: Path, text: str) -> None:
    (store / "ledger/nano-0123/7.jsonl").write_text(text)
    with pytest.raises(StoreError, match=r"7.jsonl is damaged"):
        catalog.query(store, "FROM runs")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(12_288, len(data), 4096):
        data[at + 100] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 5_000),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: path.write_text("not a database"),
        flip,
        lambda path: path.with_name("catalog.duckdb.wal").write_bytes(b"junk" * 100),
    ],
    ids=["empty", "short", "half", "text", "flipped", "stray-wal"],
)
def test_a_damaged_catalog_is_made_anew(store: Path, harm: Any) -> None:
    harm(store / catalog.FILE)
    assert count(store, "cell_metrics") == 4 * FRAMES * CELLS
    add_run(store)
    assert count(store, "runs") == 3


def test_a_catalog_of_another_schema_is_made_anew(store: Path) -> None:
    with duckdb.connect(store / catalog.FILE) as con:
        con.execute("UPDATE catalog_schema SET digest = 'older'")
        con.execute("ALTER TABLE predictions DROP COLUMN cut")
    assert count(store, "cell_metrics WHERE cut") == 4 * FRAMES


def test_full_disk_leaves_the_old_catalog(store: Path) -> None:
    resource = pytest.importorskip("resource")
    before = dump(store)
    add_run(store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # stands in for it: writes fail
    try:
        with pytest.raises(HelaError):
            catalog.index(store)
    except OSError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert dump(store) == before and not list(store.glob(".catalog*"))
    assert count(store, "runs") == 3


# ---- several at once


Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script() -> Iterator[Script]:
    """Run this very file in other processes (see its end); none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        paths = [Path(str(module.__file__)).parent for module in (hela_store, forked)]
        env = dict(os.environ, PYTHONPATH=f"{paths[0].parent}{os.pathsep}{paths[1]}")
        command = [sys.executable, __file__, *map(str, words)]
        process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


@pytest.mark.ci
def test_runs_that_finish_at_once_while_others_read_lose_no_row(store: Path, script: Script) -> None:
    reader = script("read", store)
    writers = [script("write", store, 2) for _ in range(4)]
    runs = {run for writer in writers for run in finish(writer).split()}
    (store / "stop").touch()
    assert int(finish(reader)) > 3
    assert len(runs) == 8
    expected = 4 * FRAMES * CELLS
    found = catalog.query(store, "SELECT run, count(*) AS n FROM cell_metrics GROUP BY run").to_pylist()
    assert runs < {row["run"] for row in found} and all(row["n"] == expected for row in found) and len(found) == 9
    assert not list(store.glob(".catalog*"))
    before = dump(store)
    catalog.rebuild(store)
    assert dump(store) == before


def test_threads_of_one_process_read_and_index(store: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(2):
                run = add_run(store)
                assert count(store, f"predictions WHERE run = '{run}'") == 4 * FRAMES * CELLS
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and count(store, "runs") == 8


def test_a_killed_writer_leaves_the_catalog_whole(store: Path, script: Script) -> None:
    for delay in (0.02, 0.1):
        add_run(store)
        writer = script("index", store)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.wait()
        dump(store)  # opens and reads it all
    assert count(store, "runs") == 4 and not list(store.glob(".catalog*"))


def test_a_program_that_holds_the_catalog_is_waited_for(store: Path, script: Script, monkeypatch: Any) -> None:
    holder = script("hold", store)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    monkeypatch.setattr(catalog, "FOREIGN_SECONDS", 0.1)
    with pytest.raises(StoreError, match="open for writing in another program"):
        catalog.query(store, "FROM runs")
    monkeypatch.setattr(catalog, "FOREIGN_SECONDS", 60.0)
    release = threading.Timer(0.3, holder.kill)
    release.start()
    assert count(store, "runs") == 2
    release.join()


def test_a_lock_held_too_long_is_an_error(store: Path, script: Script, monkeypatch: Any) -> None:
    add_run(store)
    monkeypatch.setattr(catalog, "LOCK_SECONDS", 0.2)
    holder = script("lock", store)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=r"catalog\.lock was held"):
        catalog.index(store)
    holder.kill()
    holder.wait()
    assert count(store, "runs") == 3


def read_only(path: Path, yes: bool) -> None:
    for each in [path, *path.rglob("*")]:
        each.chmod((0o555 if yes else 0o755) if each.is_dir() else (0o444 if yes else 0o644))


def test_a_read_only_store_can_be_queried_while_it_is_up_to_date(shared: Path, script: Script) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users, and root may write anywhere
        Path(folder).chmod(0o755)
        store = Path(shutil.copytree(shared, Path(folder) / "store"))
        read_only(store, True)
        assert finish(script("unprivileged", store)) == "2"
        read_only(store, False)
        add_run(store)
        read_only(store, True)
        out = finish(script("unprivileged", store))
        read_only(store, False)
        assert out.startswith("no permission to write while bringing") and "\n" not in out
        assert count(store, "runs") == 3


def _script(what: str, store: Path, *words: str) -> None:
    if what == "write":
        for _ in range(int(words[0])):
            print(add_run(store))
            catalog.index(store)
    elif what == "read":
        reads = 0
        seen = 0
        while not (store / "stop").exists() or reads == 0:
            per_run = catalog.query(store, "SELECT run, count(*) AS n FROM cell_metrics GROUP BY run")["n"].to_pylist()
            assert set(per_run) == {4 * FRAMES * CELLS} and len(per_run) >= seen
            seen, reads = len(per_run), reads + 1
            time.sleep(0.05)
        print(reads)
    elif what == "index":
        print("now", flush=True)
        catalog.rebuild(store)
    elif what == "hold":
        with duckdb.connect(store / catalog.FILE):
            print("held", flush=True)
            time.sleep(60)
    elif what == "lock":
        with catalog._locked(store):
            print("held", flush=True)
            time.sleep(60)
    elif what == "unprivileged":
        with tempfile.TemporaryDirectory() as empty:
            catalog.query(empty, "SELECT 1")  # imports what another user may not be able to read
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            print(catalog.query(store, "SELECT count(*) AS n FROM runs")["n"][0].as_py())
        except HelaError as error:
            print(error)


if __name__ == "__main__":
    _script(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
