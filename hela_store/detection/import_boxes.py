"""Boxes that any other detector found: a table, or a folder of YOLO label files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hela_store.base.checks import did_you_mean
from hela_store.datasets.frame_files import files_of_frames
from hela_store.errors import PromptError
from hela_store.images.boxes import BOX_COLUMNS
from hela_store.prompts.table import check_columns

from .detections import Detections, from_boxes

COLUMNS = ("frame", *BOX_COLUMNS, "score", "x", "y")
Rows = dict[str, list[tuple[list[float], float, list[float] | None]]]


def read_boxes(path: Path, frames: Mapping[str, tuple[int, int]]) -> dict[str, Detections]:
    """Read boxes by frame.

    A table (``.parquet``, ``.csv``) has the columns ``frame, x0, y0, x1, y1`` (px, frame, x1 and y1 exclusive), and may
    have ``score`` (0 to 1, else 1) and a click point ``x, y``. A folder has a file ``<frame name>.txt`` for each frame,
    with lines ``class cx cy w h [score]``, all but the class in units of the frame's width and height (the format of
    YOLO's labels). It may lie in a folder of the sequence's name, and has to where two sequences have a frame of its
    name.

    Parameters
    ----------
    path : file or folder
    frames : mapping of frame id to ``(rows, cols)``

    Raises
    ------
    PromptError
        It cannot be read, a column is missing or unknown, no file bears a frame's name, or a row is wrong: a frame that
        is not there, NaN, an empty box, or one that leaves the frame; the row is named.
    """
    rows = _read_folder(path, frames) if path.is_dir() else _read_table(path, frames)
    out = {}
    for frame, part in rows.items():
        boxes, scores = [box for box, _, _ in part], [score for _, score, _ in part]
        plain = from_boxes(boxes, scores)
        points = [p if p is not None else plain.points[i].tolist() for i, (_, _, p) in enumerate(part)]
        found = from_boxes(boxes, scores, points)
        out[frame] = found.take(np.argsort(-found.scores, kind="stable"))
    return out


def _read_table(path: Path, frames: Mapping[str, tuple[int, int]]) -> Rows:
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        elif path.suffix == ".csv":
            table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types={"frame": pa.string()}))
        else:
            raise PromptError(f"{path}: a box table is a .parquet or a .csv file, or a folder of YOLO label files")
    except FileNotFoundError:
        raise PromptError(f"no box table at {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise PromptError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    names = table.column_names
    check_columns(path, names, COLUMNS)
    if missing := [name for name in ("frame", *BOX_COLUMNS) if name not in names]:
        raise PromptError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    out: Rows = {}
    for number, row in enumerate(table.to_pylist(), 1):
        where, frame = f"{path}, row {number}", str(row["frame"])
        if frame not in frames:
            raise PromptError(f"{where}: there is no frame {frame!r}{did_you_mean(frame, frames)}")
        box = _checked([row[name] for name in BOX_COLUMNS], frames[frame], where)
        score = 1.0 if row.get("score") is None else row["score"]
        point = None if row.get("x") is None or row.get("y") is None else _numbers([row["x"], row["y"]], where)
        out.setdefault(frame, []).append((box, _score(score, where), point))
    return out


def _read_folder(path: Path, frames: Mapping[str, tuple[int, int]]) -> Rows:
    out: Rows = {}
    files = files_of_frames(path, frames, (".txt",), lambda name: [name])
    for frame, file in files.found.items():
        height, width = frames[frame]
        for number, line in enumerate(file.read_text().splitlines(), 1):
            words, where = line.split(), f"{file}, line {number}"
            if not words:
                continue
            if len(words) not in (5, 6):
                raise PromptError(f"{where}: {len(words)} values, expected class cx cy w h [score]")
            values = _numbers(words[1:], where)
            cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
            # YOLO writes six digits: a box at the border may leave it by rounding
            box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            limits = (width, height, width, height)
            box = [min(max(v, 0.0), m) if -0.01 <= v <= m + 0.01 else v for v, m in zip(box, limits, strict=True)]
            box = _checked(box, (height, width), where)
            out.setdefault(frame, []).append((box, _score(values[4] if len(values) > 4 else 1.0, where), None))
    if not files.found:
        raise PromptError(f"no file in {path} has the name of a frame; expected e.g. {next(iter(frames), 't000')}.txt")
    return out


def _numbers(values: list[Any], where: str) -> list[float]:
    found = []
    for value in values:
        if value is None:  # what a CSV reader makes of "nan", too
            raise PromptError(f"{where}: a value is missing or NaN, expected finite numbers")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise PromptError(f"{where}: {value!r} is no number") from None
        if not math.isfinite(number):
            raise PromptError(f"{where}: {number} found, expected finite numbers")
        found.append(number)
    return found


def _score(value: Any, where: str) -> float:
    score = _numbers([value], where)[0]
    if not 0 <= score <= 1:
        raise PromptError(f"{where}: score is {score:g}, expected 0 to 1")
    return score


def _checked(values: list[Any], shape: tuple[int, int], where: str) -> list[float]:
    box = _numbers(values, where)
    text = "(" + ", ".join(f"{v:g}" for v in box) + ")"
    if not (box[0] < box[2] and box[1] < box[3]):
        raise PromptError(f"{where}: box {text} is empty or inverted, expected x0 < x1 and y0 < y1")
    if box[0] < 0 or box[1] < 0 or box[2] > shape[1] or box[3] > shape[0]:
        raise PromptError(f"{where}: box {text} leaves the frame of {shape[1]} x {shape[0]} px")
    return box
