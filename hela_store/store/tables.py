"""Schemas of the tables of frames, cells and planned views, and the rows that were ingested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hela_store.base.parquet import read_parquet

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
    ]
)


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


def ingested_frames(path: Path) -> pa.Table:
    """Return the rows of ``ingest/frames-*.parquet`` of the store at ``path``, empty where there are none.

    Raises
    ------
    StoreError
        A file is damaged.
    """
    files = sorted((path / "ingest").glob("frames-*.parquet"))
    return pa.concat_tables([read_parquet(file) for file in files]) if files else FRAMES_SCHEMA.empty_table()


def in_time_order(frames: pa.Table) -> pa.Table:
    """Return rows of frames sequence by sequence, each in the order of time; sequences in the order of their first row.

    Frames that were ingested later may lie before or between earlier ones.
    """
    sequences = frames["sequence"].combine_chunks().dictionary_encode().indices
    order = np.lexsort((frames["time"].to_numpy(), sequences.to_numpy()))
    return frames if (order == np.arange(len(order))).all() else frames.take(order)
