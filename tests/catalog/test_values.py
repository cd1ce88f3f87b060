"""What DuckDB answers, as plain values: the same in every form, and never an error."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import datetime

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hela_store.catalog.values import cell_text, csv_lines, finite, for_parquet, named_once, plain_rows, to_arrow
from hela_store.errors import QueryError


def ask(expression: str) -> object:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        ((value,),) = plain_rows(to_arrow(con.sql(f"SELECT {expression} AS v")))
    return value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("NULL", None),
        ("true", True),
        ("''", ""),
        ("9007199254740993", 9007199254740993),
        ("0.1::FLOAT", 0.1),
        ("1.50::DECIMAL(5, 2)", 1.5),
        ("3::DECIMAL(5, 0)", 3),
        ("12345678901234567890.123::DECIMAL(38, 3)", "12345678901234567890.123"),
        ("170141183460469231731687303715884105727::HUGEINT", 170141183460469231731687303715884105727),
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("'0101'::BIT", "0101"),
        ("TIMETZ '01:02:03+02'", "01:02:03+02"),
        ("[1::UHUGEINT]", "[1]"),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("DATE 'infinity'", "infinity"),
        ("TIMESTAMP '2026-01-02 03:04:05'", "2026-01-02 03:04:05"),
        ("TIMESTAMP '2026-01-02 03:04:05.5'", "2026-01-02 03:04:05.5"),
        ("TIMESTAMP '-infinity'", "-infinity"),
        ("TIMESTAMPTZ '2026-01-02 03:04:05.5+02'", "2026-01-02 01:04:05.5+00"),
        ("TIMESTAMP '294247-01-10 04:00:54.775806'", "294247-01-10 04:00:54.775806"),
        ("TIME '24:00:00'", "24:00:00"),
        ("INTERVAL '1 year 2 days -3 hours'", "1 year 2 days -03:00:00"),
        ("INTERVAL '-14 months'", "-1 year -2 months"),
        ("INTERVAL '0 days'", "00:00:00"),
        (r"'\x00a\xFF\x5C'::BLOB", r"\x00a\xFF\x5C"),
        ("[1, 2, NULL]", [1, 2, None]),
        ("[1.5, 'nan'::DOUBLE, '-inf'::DOUBLE]", [1.5, "nan", "-inf"]),
        ("{'a': [DATE '2026-01-02'], 'b': {'c': NULL}}", {"a": ["2026-01-02"], "b": {"c": None}}),
        ("MAP {'k': 1, 'l': NULL}", {"k": 1, "l": None}),
        ("MAP {1: 'x'}", {"1": "x"}),
        ("union_value(n := 5)", 5),
        ("'a'::ENUM('a', 'b')", "a"),
    ],
)
def test_values(expression: str, value: object) -> None:
    found = ask(expression)
    assert found == value and type(found) is type(value)


def test_every_type_says_the_same_in_every_form() -> None:
    """Against DuckDB's own text, which for lists and objects is no JSON and for years before 1 no ISO 8601."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        table = to_arrow(con.sql("FROM test_all_types()"))
        texts = con.sql("SELECT columns(*)::VARCHAR FROM test_all_types()").fetchall()
    names, rows = table.column_names, plain_rows(table)
    read = list(csv.reader(io.StringIO("".join(csv_lines(names, rows)))))
    assert read[0] == names and len(read) == len(rows) + 1 == 4
    parsed = json.loads(json.dumps([list(map(finite, row)) for row in rows], allow_nan=False))
    for row, fields, values, own in zip(rows, read[1:], parsed, texts, strict=True):
        for name, value, field, from_json, text in zip(names, row, fields, values, own, strict=True):
            assert field == cell_text(from_json), name
            assert (value is None) == (text is None), name
            if isinstance(value, list | dict):
                assert json.loads(field) == from_json, name
            elif value is not None and "(BC)" not in text:
                assert field == text or float(field) == float(text), name


def test_nan_and_infinities_are_no_nulls() -> None:
    with duckdb.connect() as con:
        table = con.sql("SELECT unnest(['nan'::DOUBLE, 'inf', '-inf', NULL, 0.5]) AS v, 1 AS one").to_arrow_table()
    rows = plain_rows(table)
    assert math.isnan(rows[0][0]) and [row[0] for row in rows[1:]] == [math.inf, -math.inf, None, 0.5]
    assert [finite(row[0]) for row in rows] == ["nan", "inf", "-inf", None, 0.5]
    assert list(csv_lines(["v", "one"], rows))[1:] == ["nan,1\n", "inf,1\n", "-inf,1\n", ",1\n", "0.5,1\n"]


def test_csv_tells_null_from_empty_text_and_loses_no_row() -> None:
    assert list(csv_lines(["a", "b"], [["", None], [True, [1, "x,y"]]])) == ["a,b\n", '"",\n', 'true,"[1, ""x,y""]"\n']
    assert list(csv_lines(["a"], [[None], [1]])) == ["a\n", '""\n', "1\n"]


@settings(deadline=None)
@given(st.lists(st.lists(st.text(), min_size=2, max_size=2)))
def test_any_text_comes_back_from_csv(rows: list[list[str]]) -> None:
    lines = "".join(csv_lines(["a", "b"], rows))
    assert list(csv.reader(io.StringIO(lines, newline="")))[1:] == rows


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-9, 9))))))
def test_lists_and_slices_of_them(rows: list[list[int | None] | None]) -> None:
    table = pa.table({"v": pa.array(rows, pa.list_(pa.int64()))})
    assert plain_rows(table) == [[row] for row in rows]
    assert plain_rows(table.slice(1)) == [[row] for row in rows[1:]]
    chunked = pa.concat_tables([table, table])
    assert plain_rows(chunked) == [[row] for row in [*rows, *rows]]


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1, 1, 1)))
def test_timestamps_are_as_python_writes_them(moment: datetime) -> None:
    ((text,),) = plain_rows(pa.table({"v": pa.array([moment], pa.timestamp("us"))}))
    assert datetime.fromisoformat(text.ljust(26, "0") if "." in text else text) == moment


def test_columns_of_one_name_are_all_there() -> None:
    with duckdb.connect() as con:
        found = named_once(con.sql("SELECT 1 AS n, 2 AS n, 3 AS n_1, 4 AS n").to_arrow_table())
    assert found.to_pylist() == [{"n": 1, "n_1": 2, "n_1_1": 3, "n_2": 4}]


def test_what_parquet_does_not_know_is_named() -> None:
    with duckdb.connect() as con:
        assert for_parquet(con.sql("SELECT [1] AS a, {'b': 1} AS b").to_arrow_table()).num_rows == 1
        for expression in ("INTERVAL 1 DAY", "[INTERVAL 1 DAY]", "union_value(n := 5)"):
            table = con.sql(f"SELECT 1 AS one, {expression} AS v").to_arrow_table()
            with pytest.raises(
                QueryError, match=r"column v is of type .*, which Parquet does not know; cast it to VARCHAR"
            ):
                for_parquet(table)
