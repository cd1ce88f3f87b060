"""Schemas of the tables of frames, cells and planned views, and the rows that were ingested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.names import PLAIN, check_name
from hela_store.errors import StoreError

LONGEST_SIDE = 1 << 16
"""Most rows or columns of a frame, px."""

FRAMES_SCHEMA = pa.schema(
    [
        ("frame", pa.string()),
        ("sequence", pa.string()),
        ("name", pa.string()),
        ("time", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("dtype", pa.string()),
        ("group", pa.string()),
        ("row", pa.int64()),
        ("sha256", pa.string()),
        ("has_label", pa.bool_()),
        ("partial", pa.bool_()),
        ("label_origin", pa.string()),
        ("pixel_size_um", pa.float64()),
        ("is_blank", pa.bool_()),
        ("image_xxh3", pa.string()),
        ("label_xxh3", pa.string()),
        ("valid_xxh3", pa.string()),
        ("look", pa.binary()),
    ]
)
LATER = ("image_xxh3", "label_xxh3", "valid_xxh3", "look")
"""Columns of frames that were added later; files of earlier versions read as if they were NULL."""


CELLS_SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("frame", pa.string()),
        ("label", pa.int64()),
        ("area", pa.int64()),
        ("area_um2", pa.float64()),
        ("diameter", pa.float64()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("x1", pa.int64()),
        ("y1", pa.int64()),
        ("cx", pa.float64()),
        ("cy", pa.float64()),
        ("eccentricity", pa.float64()),
        ("touches_neighbour", pa.bool_()),
        ("touches_border", pa.bool_()),
        ("mean_intensity", pa.float64()),
        ("round_trip_iou", pa.float64()),
    ]
)

PLAN_SCHEMA = pa.schema(
    [
        ("view", pa.string()),
        ("frame", pa.string()),
        ("tile", pa.int64()),
        ("variant", pa.int64()),
        ("x0", pa.int64()),
        ("y0", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("seed", pa.int64()),
        ("params", pa.string()),
        ("row", pa.int64()),
    ]
)


def checked_frames(path: Path, table: pa.Table) -> pa.Table:
    """Return the rows of one ``ingest/frames-*.parquet``, its names checked: they become paths.

    Columns of :data:`LATER` are NULL where an earlier version wrote none.

    Raises
    ------
    StoreError
        A name in it cannot be that of a file, or a frame has no size, or one that no frame has.
    """
    for column in ("sequence", "group", "name"):
        names = pc.unique(table[column])
        odd = pc.invert(pc.fill_null(pc.match_substring_regex(names, f"^(?:{PLAIN})$"), False))
        for name in names.filter(odd).to_pylist():
            check_name(name, f"{path} is damaged: {column}")
    named = pc.binary_join_element_wise(table["sequence"], table["name"], "/")
    if table.num_rows and not pc.all(pc.equal(named, table["frame"])).as_py():
        raise StoreError(f"{path} is damaged: a frame is not called <sequence>/<name>; restore it, or make a new store")
    for column in ("height", "width"):
        for side in pc.unique(table[column]).to_pylist():
            if side is None or not 0 < side <= LONGEST_SIDE:
                found = f"{path} is damaged: a frame has a {column} of {side} px"
                raise StoreError(f"{found}, expected 1 to {LONGEST_SIDE}; restore it, or make a new store")
    for name in LATER:
        if name not in table.column_names:
            table = table.append_column(FRAMES_SCHEMA.field(name), pa.nulls(len(table), FRAMES_SCHEMA.field(name).type))
    return table


def in_time_order(frames: pa.Table) -> pa.Table:
    """Return rows of frames sequence by sequence, each in the order of time; sequences in the order of their first row.

    Frames that were ingested later may lie before or between earlier ones.
    """
    sequences = frames["sequence"].combine_chunks().dictionary_encode().indices
    order = np.lexsort((frames["time"].to_numpy(), sequences.to_numpy()))
    return frames if (order == np.arange(len(order))).all() else frames.take(order)
