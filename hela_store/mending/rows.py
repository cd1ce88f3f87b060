"""Rows of ``changes.parquet``: what became of every mask, and the label images that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.evaluation.frames import Tile
from hela_store.images.rle import bbox, decode_crop, encode
from hela_store.metrics.overlap import overlap
from hela_store.store.records import CellRecord

from .answers import Piece
from .decide import Change

CHANGES_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("change", "frame", "split", "fitted", "view", "file")],
        ("label", pa.int64()),
        ("new_label", pa.int64()),
        *[(name, pa.string()) for name in ("action", "reason", "proposal")],
        ("partner", pa.int64()),
        *[(name, pa.int64()) for name in ("x0", "y0", "x1", "y1", "area_before", "area_after")],
        *[(name, pa.float64()) for name in ("iou_change", "predicted_iou", "agreement", "steadiness", "contrast")],
        ("probability", pa.float64()),
        ("cell", pa.string()),
        ("iou_before", pa.float64()),
        ("iou_after", pa.float64()),
        ("rle_before", pa.string()),
        ("rle", pa.string()),
        ("rle_height", pa.int64()),
        ("rle_width", pa.int64()),
    ]
)


def change_rows(
    about: Mapping[str, Any], changes: Iterable[Change], tiles: Sequence[Tile], shape: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return the rows of a frame, without the truth.

    Parameters
    ----------
    about : mapping
        Frame, split, what was fitted on the frame, and file of all of them.
    changes : iterable of Change
    tiles : sequence of Tile
        Of the frame.
    shape : (int, int)
        ``(rows, cols)`` px.
    """
    rows = []
    for change in changes:
        answer, mask = change.answer, change.mask
        rle = encode(mask.mask, mask.origin, shape)
        before = encode(answer.old.mask, answer.old.origin, shape).counts if change.label else None
        rows.append(
            dict(about)
            | {"change": f"{about['frame']}@{change.label or change.new_label}", "view": tiles[answer.tile].view}
            | {"label": change.label or None, "new_label": change.new_label or None}
            | {name: getattr(change, name) for name in ("action", "reason", "proposal", "partner", "probability")}
            | dict(zip(("x0", "y0", "x1", "y1"), bbox(answer.old.mask, answer.old.origin), strict=True))
            | {"area_before": answer.old.area if change.label else None, "area_after": mask.area}
            | {"iou_change": mask.iou(answer.old)}
            | {name: getattr(answer, name) for name in ("predicted_iou", "agreement", "steadiness", "contrast")}
            | {"rle_before": before, "rle": rle.counts, "rle_height": rle.height, "rle_width": rle.width}
        )
    return rows


def add_truth(
    rows: Sequence[dict[str, Any]],
    changes: Sequence[Change],
    cells: Mapping[int, CellRecord],
    truth: npt.NDArray[np.integer],
) -> None:
    """Add the IoU before and after of masks that stand for a labelled cell.

    Parameters
    ----------
    rows : sequence of dict
        Of the changes, in their order.
    changes : sequence of Change
    cells : mapping
        The cell that a mask of the tool stands for, by the mask's value.
    truth : integer, (row, col)
    """
    for row, change in zip(rows, changes, strict=True):
        cell = cells.get(change.label)
        if cell is not None:
            own = truth[cell.y0 : cell.y1, cell.x0 : cell.x1] == cell.label
            row["cell"] = cell.cell
            row["iou_before"] = _iou(change.answer.old, own, (cell.x0, cell.y0))
            row["iou_after"] = _iou(change.mask, own, (cell.x0, cell.y0))


def _iou(piece: Piece, truth: npt.NDArray[np.bool_], at: tuple[int, int]) -> float:
    return overlap(piece.mask, truth, piece.origin, at).iou


def render(rows: Iterable[Mapping[str, Any]], shape: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Return the label image of a frame from its rows: uint32, (row, col), 0 background."""
    label = np.zeros(shape, np.uint32)
    for row in rows:
        if row["new_label"] and 0 < row["new_label"] < 1 << 32:
            mask, (x, y) = decode_crop(row["rle"], *shape)
            label[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = row["new_label"]
    return label


def file_of(masks: Path, path: Path) -> str:
    """Return where the label image that belongs to a tool's file goes, below the output folder: a TIFF of its name."""
    place = path.relative_to(masks)
    return place.with_suffix(".tif").as_posix() if place.suffix.lower() not in (".tif", ".tiff") else place.as_posix()
