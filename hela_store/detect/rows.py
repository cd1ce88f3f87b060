"""Detections as rows of a run: ``detections.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import RunError
from ..masks import Rle
from ..runs import RunInfo
from .detections import Detections, from_boxes
from .matching import match
from .truth import FrameTruth, box_pairs, mask_pairs

LEAST_IOU = 0.5
"""Of a detection and the cell its row names."""

DETECTION_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("detection", "split", "frame", "view")],
        *[(name, pa.float64()) for name in ("x0", "y0", "x1", "y1", "cx", "cy", "x", "y", "score")],
        ("cell", pa.string()),
        ("iou", pa.float64()),
        ("mask_cell", pa.string()),
        ("mask_iou", pa.float64()),
        ("counted", pa.bool_()),
        ("rle", pa.string()),
        ("rle_height", pa.int64()),
        ("rle_width", pa.int64()),
    ]
)


def detection_rows(found: Detections, truth: FrameTruth, threshold: float) -> list[dict[str, Any]]:
    """Return the rows of one frame.

    Those that count (score at ``threshold`` or more) are matched with cells first, the others with what is left over:
    so a row of a low score never takes the cell of one that counts.
    """
    frame, rows = truth.frame, []
    by_box, by_mask = box_pairs(found, truth), mask_pairs(found, truth)
    cells = [_matched(found.scores >= threshold, pairs.ious) for pairs in (by_box, by_mask)]
    for i in range(len(found)):
        x0, y0, x1, y1 = (float(v) for v in found.boxes[i])
        rle, tile = found.masks[i], int(found.tiles[i])
        rows.append(
            {
                "detection": f"{frame.frame}-{i:04d}",
                "split": frame.split,
                "frame": frame.frame,
                "view": frame.tiles[tile].view if tile >= 0 else None,
                "x0": x0,
                "y0": y0,
                "x1": x1,
                "y1": y1,
                "cx": (x0 + x1 - 1) / 2,
                "cy": (y0 + y1 - 1) / 2,
                "x": float(found.points[i, 0]),
                "y": float(found.points[i, 1]),
                "score": float(found.scores[i]),
                **_cell_of("cell", "iou", frame.cells, cells[0], i),
                **_cell_of("mask_cell", "mask_iou", frame.cells, cells[1], i),
                "counted": bool(by_box.counted[i]),
                "rle": rle.counts if rle else None,
                "rle_height": rle.height if rle else None,
                "rle_width": rle.width if rle else None,
            }
        )
    return rows


def _matched(counts: np.ndarray, ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cell, iou = np.full(len(counts), -1), np.zeros(len(counts))
    free = np.ones(ious.shape[1], bool)
    for part in (np.flatnonzero(counts), np.flatnonzero(~counts)):
        left = np.flatnonzero(free)
        pairs = match(ious[np.ix_(part, left)], LEAST_IOU)
        hit = pairs.cell >= 0
        cell[part[hit]], iou[part[hit]] = left[pairs.cell[hit]], pairs.iou[hit]
        free[left[pairs.cell[hit]]] = False
    return cell, iou


def _cell_of(
    name: str, iou: str, cells: Sequence[dict[str, Any]], found: tuple[np.ndarray, np.ndarray], i: int
) -> dict[str, Any]:
    cell = int(found[0][i])
    return {name: cells[cell]["cell"] if cell >= 0 else None, iou: float(found[1][i]) if cell >= 0 else None}


def read_detections(run: RunInfo, tiles: dict[str, list[str]] | None = None) -> dict[str, Detections]:
    """Return what a run found, by frame; frames without detections are left out.

    Parameters
    ----------
    run : of kind ``"detect"``
    tiles : view ids by frame, in order, where the tile of a detection is wanted

    Raises
    ------
    RunError
        Its rows are missing or damaged.
    """
    path = run.path / "detections.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read ({str(error).splitlines()[0]}); detect again") from None
    by_frame: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_frame.setdefault(row["frame"], []).append(row)
    return {frame: _detections(part, (tiles or {}).get(frame, [])) for frame, part in by_frame.items()}


def _detections(rows: list[dict[str, Any]], views: list[str]) -> Detections:
    boxes = [[row[name] for name in ("x0", "y0", "x1", "y1")] for row in rows]
    plain = from_boxes(boxes, [row["score"] for row in rows], [[row["x"], row["y"]] for row in rows])
    masks = tuple(
        Rle(counts=row["rle"], height=row["rle_height"], width=row["rle_width"]) if row["rle"] else None for row in rows
    )
    place = {view: i for i, view in enumerate(views)}
    tiles = np.array([place.get(row["view"], -1) for row in rows], np.int64)
    return Detections(boxes=plain.boxes, scores=plain.scores, points=plain.points, tiles=tiles, masks=masks)
