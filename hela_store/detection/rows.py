"""Detections as rows of a run: ``detections.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from hela_store.evaluation.rows import DETECTION_SCHEMA
from hela_store.images.rle import Rle
from hela_store.metrics.matching import match
from hela_store.runs.folder import RunInfo
from hela_store.store.records import CellRecord

from .detections import Detections, from_boxes
from .frames import FrameTruth, box_pairs, mask_pairs

LEAST_IOU = 0.5
"""Of a detection and the cell its row names."""


PLAIN = ("x0", "y0", "x1", "y1", "x", "y", "score")
PLAIN_SCHEMA = pa.schema([DETECTION_SCHEMA.field(name) for name in (*PLAIN, "rle", "rle_height", "rle_width")])
"""What is known of detections without a truth."""


def plain_rows(found: Detections) -> list[dict[str, Any]]:
    """Return what rows say of detections alone, of no frame: :func:`from_rows` reads it back, to the bit."""
    return [
        dict(zip(PLAIN, map(float, [*box, *point, score]), strict=True))
        | {"rle": rle and rle.counts, "rle_height": rle and rle.height, "rle_width": rle and rle.width}
        for box, point, score, rle in zip(found.boxes, found.points, found.scores, found.masks, strict=True)
    ]


def detection_rows(found: Detections, truth: FrameTruth, threshold: float) -> list[dict[str, Any]]:
    """Return the rows of one frame.

    Those that count (score at ``threshold`` or more) are matched with cells first, the others with what is left over:
    so a row of a low score never takes the cell of one that counts.
    """
    frame, rows = truth.frame, []
    by_box, by_mask = box_pairs(found, truth), mask_pairs(found, truth)
    cells = [_matched(found.scores >= threshold, pairs.ious) for pairs in (by_box, by_mask)]
    for i, plain in enumerate(plain_rows(found)):
        tile = int(found.tiles[i])
        rows.append(
            plain
            | {
                "detection": f"{frame.frame}-{i:04d}",
                "split": frame.split,
                "frame": frame.frame,
                "view": frame.tiles[tile].view if tile >= 0 else None,
                "cx": (plain["x0"] + plain["x1"] - 1) / 2,
                "cy": (plain["y0"] + plain["y1"] - 1) / 2,
                **_cell_of("cell", "iou", frame.cells, cells[0], i),
                **_cell_of("mask_cell", "mask_iou", frame.cells, cells[1], i),
                "counted": bool(by_box.counted[i]),
            }
        )
    return rows


def _matched(counts: np.ndarray, ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cell, iou = np.full(len(counts), -1), np.zeros(len(counts))
    free = np.ones(ious.shape[1], bool)
    for part in (np.flatnonzero(counts), np.flatnonzero(~counts)):
        left = np.flatnonzero(free)
        pairs = match(ious[np.ix_(part, left)], LEAST_IOU)
        hit = pairs.partner >= 0
        cell[part[hit]], iou[part[hit]] = left[pairs.partner[hit]], pairs.iou[hit]
        free[left[pairs.partner[hit]]] = False
    return cell, iou


def _cell_of(
    name: str, iou: str, cells: Sequence[CellRecord], found: tuple[np.ndarray, np.ndarray], i: int
) -> dict[str, Any]:
    cell = int(found[0][i])
    return {name: cells[cell].cell if cell >= 0 else None, iou: float(found[1][i]) if cell >= 0 else None}


def read_detections(run: RunInfo) -> dict[str, Detections]:
    """Return what a run of kind ``"detect"`` found, by frame; frames without detections are left out.

    Raises
    ------
    RunError
        Its rows are missing or damaged.
    """
    by_frame: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows("detections"):
        by_frame.setdefault(row["frame"], []).append(row)
    return {frame: from_rows(part) for frame, part in by_frame.items()}


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Detections:
    """Return the detections of the rows of one frame; in which tiles they were found is not known any more."""
    boxes = [[row[name] for name in ("x0", "y0", "x1", "y1")] for row in rows]
    plain = from_boxes(boxes, [row["score"] for row in rows], [[row["x"], row["y"]] for row in rows])
    masks = tuple(
        Rle(counts=row["rle"], height=row["rle_height"], width=row["rle_width"]) if row["rle"] else None for row in rows
    )
    return replace(plain, masks=masks)
