"""Rows and schemas of the Parquet files of an evaluation: prompts, predictions, detections."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from hela_store.images.rle import encode

from .questions import Score


def prompt_row(score: Score, prompt_id: str, split: str) -> dict[str, Any]:
    """Return the row of ``prompts.parquet``."""
    question, prompt = score.question, score.question.prompt
    box = [None] * 4 if prompt.box is None else [float(value) for value in prompt.box]
    points = [] if prompt.points is None else [float(value) for value in prompt.points.ravel()]
    labels = [] if prompt.point_labels is None else [int(value) for value in prompt.point_labels]
    return {
        "prompt_id": prompt_id,
        "kind": prompt.kind,
        "origin": question.origin,
        "prompt_seed": question.seed,
        "split": split,
        "cell": question.cell.cell,
        "frame": question.cell.frame,
        "view": question.tile.view,
        **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        "points": points,
        "point_labels": labels,
        "params": json.dumps(getattr(prompt, "params", {})),
        "prompt_iou": score.prompt_iou,
        "free_iou": question.free.iou,
        "free_dice": question.free.dice,
        "cut": question.cut,
        "free_ellipse_iou": None if question.ellipse is None else question.ellipse.iou,
    }


def prediction_row(score: Score, prompt_id: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Return the row of ``predictions.parquet``; ``shape`` is the frame's ``(rows, cols)``."""
    question, prediction = score.question, score.prediction
    return {
        "prompt_id": prompt_id,
        "cell": question.cell.cell,
        "frame": question.cell.frame,
        "view": question.tile.view,
        "iou": score.iou,
        "dice": score.dice,
        "predicted_iou": prediction.predicted_iou,
        "is_empty": prediction.is_empty,
        **({} if score.detail is None else asdict(score.detail)),
        "rle": encode(prediction.mask, prediction.origin, shape).counts,
        "rle_height": shape[0],
        "rle_width": shape[1],
    }


PROMPT_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("prompt_id", "kind", "origin")],
        ("prompt_seed", pa.int64()),
        *[(name, pa.string()) for name in ("split", "cell", "frame", "view")],
        *[(name, pa.float64()) for name in ("x0", "y0", "x1", "y1")],
        ("points", pa.list_(pa.float64())),
        ("point_labels", pa.list_(pa.int64())),
        ("params", pa.string()),
        *[(name, pa.float64()) for name in ("prompt_iou", "free_iou", "free_dice")],
        ("cut", pa.bool_()),
        ("free_ellipse_iou", pa.float64()),
    ]
)


PREDICTION_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("prompt_id", "cell", "frame", "view")],
        *[(name, pa.float64()) for name in ("iou", "dice", "predicted_iou")],
        ("is_empty", pa.bool_()),
        *[(name, pa.float64()) for name in ("boundary_iou", "hd95", "nsd1", "nsd2", "spill")],
        ("failure", pa.string()),
        ("rle", pa.string()),
        ("rle_height", pa.int64()),
        ("rle_width", pa.int64()),
    ]
)


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
