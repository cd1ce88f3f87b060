"""Records have the columns of their tables."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from hela_store.base.files import digest
from hela_store.store.plan_names import plan_names
from hela_store.store.records import CellRecord, FrameRecord, FrameRecords, ViewRecord
from hela_store.store.store import Store
from hela_store.store.tables import CELLS_SCHEMA, FRAMES_SCHEMA, PLAN_SCHEMA


@pytest.mark.parametrize(
    ("record", "schema"), [(FrameRecord, FRAMES_SCHEMA), (CellRecord, CELLS_SCHEMA), (ViewRecord, PLAN_SCHEMA)]
)
def test_fields_are_the_columns(record: type, schema: pa.Schema) -> None:
    assert [field.name for field in dataclasses.fields(record)] == schema.names


def test_rows_come_back_in_order(embedded: Path) -> None:
    store = Store.open(embedded)
    for record, table in (
        (FrameRecord, store.frames_table()),
        (CellRecord, store.cells_table()),
        (ViewRecord, store.views_table()),
    ):
        assert [dataclasses.asdict(row) for row in record.of(table)] == table.to_pylist()
    frame = store.frame_records()["01/t000"]
    assert frame.shape == (192, 256)
    assert next(ViewRecord.of(store.views_table())).rect == (0, 0, 256, 192)


def test_blocks_follow_frames_that_are_added(embedded: Path, tmp_path: Path) -> None:
    """They are kept, not asked for again, until the table of frames is another."""
    shutil.copytree(embedded, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    before = store.blocks()
    assert store.blocks() is before and len(before) == 8
    segment = next((store.path / "ingest").glob("frames-*.parquet"))
    import pyarrow.parquet as pq

    row = pq.read_table(segment).slice(0, 1).to_pylist()[0] | {"frame": "01/t900", "time": 900, "name": "t900"}
    for what, rows, schema in (("frames", [row], FRAMES_SCHEMA), ("cells", [], CELLS_SCHEMA)):
        pq.write_table(pa.Table.from_pylist(rows, schema), segment.with_name(f"{what}-0002.parquet"))
    assert store.blocks().keys() - before.keys() == {"01/t900"}


def test_frames_are_found_by_their_ids(embedded: Path) -> None:
    frames = Store.open(embedded).frames_table()
    records = FrameRecords(frames)
    expected = {record.frame: record for record in FrameRecord.of(frames)}
    assert dict(records) == dict(records.items()) == expected and records == expected
    assert list(records) == list(expected) == list(records.keys()) and len(records) == len(expected)
    assert list(records.values()) == list(expected.values())
    assert "01/t003" in records and "01/t999" not in records and records.get("01/t999") is None
    with pytest.raises(KeyError):
        records["01/t999"]


@pytest.mark.parametrize("odd", ["01/t 1", "01/é", "01/it's", 'a"b/c', "a\\b", "\u202e", "a\nb", "日本/1"])
def test_names_of_plans_are_digests_of_all_frames(embedded: Path, odd: str) -> None:
    store = Store.open(embedded)
    table = store.frames_as_ingested().select(["frame", "sha256"])
    more = pa.table({"frame": ["01/t900", odd], "sha256": ["ab", "cd"]})
    frames = pa.concat_tables([table, more, more.slice(0, 1)])
    named = plan_names(store.recipe, frames)
    assert list(named) == [0, 8, 10, 11]
    recipe = store.recipe
    parts = [recipe.normalise.method, recipe.normalise.low, recipe.normalise.high, float(recipe.dataset.offset), 0, 0]
    for count, name in named.items():
        values = [value for row in frames.slice(0, count).to_pylist() for value in (row["frame"], row["sha256"])]
        assert digest("plan", *parts, *values)[:16] == name
