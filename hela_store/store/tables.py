"""Schemas of the tables of frames, cells and planned views, and the rows that were ingested."""

from __future__ import annotations

import pyarrow as pa

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
    ]
)
SUMS = ("image_xxh3", "label_xxh3", "valid_xxh3")
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


def with_sums(frames: pa.Table) -> pa.Table:
    """Return frames with the columns of :data:`SUMS`, NULL where an earlier version wrote none."""
    for name in SUMS:
        if name not in frames.column_names:
            frames = frames.append_column(FRAMES_SCHEMA.field(name), pa.nulls(len(frames), pa.string()))
    return frames
