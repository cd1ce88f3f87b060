"""Prompts that users bring: boxes and points from a table, masks from label images, matched to cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.base.checks import did_you_mean
from hela_store.errors import PromptError
from hela_store.images.boxes import BOX_COLUMNS, box_iou
from hela_store.images.labels import shared_pixels
from hela_store.images.rle import bbox
from hela_store.metrics.matching import match

from .prompt import Prompt

COLUMNS = ("frame", "cell", *BOX_COLUMNS, "x", "y", "label")
LEAST_OVERLAP = 0.3
"""Least IoU of a box or a mask with the cell it is a prompt for; neighbours overlap less than that."""


@dataclass(frozen=True, kw_only=True)
class UserPrompt:
    """Prompt that a user's table gives for one cell.

    Attributes
    ----------
    frame : str
        Frame id, ``"01/t012"``.
    cell : str or None
        Cell id where the table names one; else the prompt is matched by place.
    row : int
        Row of the table it begins in; the first below the header is 1.
    prompt : Prompt
        Of kind ``"box"`` where there is a box, else ``"point"``.
    """

    frame: str
    cell: str | None
    row: int
    prompt: Prompt


def read_prompt_table(path: Path, frames: Mapping[str, tuple[int, int]]) -> list[UserPrompt]:
    """Read prompts from a ``.parquet`` or ``.csv`` file.

    Columns: ``frame``; a box ``x0, y0, x1, y1`` (px, frame, x1 and y1 exclusive) or a point ``x, y`` (px, frame, pixel
    centres at integers) with ``label`` (1 cell, which is the default, 0 background), or both; ``cell``, optional. Empty
    fields mean that a row has none. Rows that name the same cell are one prompt of several points and at most one box;
    a row that names none is a prompt of its own.

    Parameters
    ----------
    path : Path
    frames : mapping of frame id to ``(rows, cols)``
        The frames prompts may be given for.

    Returns
    -------
    list of UserPrompt
        In the order of the table.

    Raises
    ------
    PromptError
        The file cannot be read, a column is unknown or missing, or a row is wrong; it is named.
    """
    table = _read(path)
    names = table.column_names
    check_columns(path, names, COLUMNS)
    has_box, has_point = set(BOX_COLUMNS) <= set(names), {"x", "y"} <= set(names)
    if "frame" not in names or not (has_box or has_point):
        raise PromptError(f"{path}: found columns {', '.join(names)}; expected frame and x0, y0, x1, y1 or x, y")
    groups: dict[tuple[str, str | int], list[_Row]] = {}
    for number, values in enumerate(table.to_pylist(), start=1):
        row = _read_row(values, number, frames, f"{path}, row {number}")
        groups.setdefault((row.frame, row.cell if row.cell is not None else number), []).append(row)
    if not groups:
        raise PromptError(f"{path}: the table has no rows")
    return [_join(rows, path) for rows in groups.values()]


def check_columns(path: Path, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise PromptError where a table of the user's has a column that is unknown, or one twice."""
    for name in names:
        if name not in known:
            raise PromptError(
                f"{path}: unknown column {name!r}, expected {', '.join(known)}{did_you_mean(name, known)}"
            )
        if names.count(name) > 1:
            raise PromptError(f"{path}: column {name!r} is there {names.count(name)} times, expected once; rename one")


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            types = {"frame": pa.string(), "cell": pa.string()}
            options = pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            return pa_csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise PromptError(f"no prompt table at {path}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise PromptError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    raise PromptError(f"{path}: a prompt table is a .parquet or a .csv file")


@dataclass(frozen=True, kw_only=True)
class _Row:
    number: int
    frame: str
    cell: str | None
    box: npt.NDArray[np.float64] | None
    point: tuple[float, float] | None
    label: int


def _read_row(values: Mapping[str, Any], number: int, frames: Mapping[str, tuple[int, int]], where: str) -> _Row:
    frame = str(values["frame"])
    if frame not in frames:
        hint = did_you_mean(frame, frames)
        raise PromptError(f"{where}: there is no frame {frame!r}{hint}")
    sides = _numbers(values, BOX_COLUMNS, where)
    point = _numbers(values, ("x", "y"), where)
    if sides is None and point is None:
        raise PromptError(f"{where}: neither a box (x0, y0, x1, y1) nor a point (x, y)")
    height, width = frames[frame]
    if sides is not None:
        x0, y0, x1, y1 = sides
        if not (x0 < x1 and y0 < y1):
            raise PromptError(f"{where}: box {_text(sides)} is empty or inverted, expected x0 < x1 and y0 < y1")
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise PromptError(f"{where}: box {_text(sides)} leaves the frame of {width} x {height} px")
    if point is not None and not (-0.5 <= point[0] < width - 0.5 and -0.5 <= point[1] < height - 0.5):
        raise PromptError(f"{where}: point {_text(point)} lies outside of the frame of {width} x {height} px")
    label = values.get("label")
    if label not in (None, 0, 1):
        raise PromptError(f"{where}: label is {label!r}, expected 1 (cell) or 0 (background)")
    cell = values.get("cell")
    return _Row(
        number=number,
        frame=frame,
        cell=None if cell in (None, "") else str(cell),
        box=None if sides is None else np.asarray(sides),
        point=None if point is None else (point[0], point[1]),
        label=1 if label is None else int(label),
    )


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _numbers(values: Mapping[str, Any], names: Sequence[str], where: str) -> list[float] | None:
    given = [name for name in names if values.get(name) is not None]
    if not given:
        return None
    if len(given) < len(names):
        missing = [name for name in names if name not in given]
        raise PromptError(f"{where}: {', '.join(missing)} missing beside {', '.join(given)}")
    found = []
    for name in names:
        try:
            number = float(values[name])
        except (TypeError, ValueError):
            raise PromptError(f"{where}: {name} is {values[name]!r}, expected a number") from None
        if not np.isfinite(number):
            raise PromptError(f"{where}: {name} is {number}, expected a finite number")
        found.append(number)
    return found


def _join(rows: Sequence[_Row], path: Path) -> UserPrompt:
    boxes = [row for row in rows if row.box is not None]
    points = [row for row in rows if row.point is not None]
    if len(boxes) > 1:
        first, second = boxes[0].number, boxes[1].number
        raise PromptError(f"{path}, row {second}: a second box for cell {rows[0].cell}, the first is in row {first}")
    if not boxes and not any(row.label == 1 for row in points):
        raise PromptError(f"{path}, row {rows[0].number}: only background points; add a box or a point with label 1")
    prompt = Prompt(
        kind="box" if boxes else "point",
        box=boxes[0].box if boxes else None,
        points=np.asarray([row.point for row in points], float) if points else None,
        point_labels=np.asarray([row.label for row in points], np.int64) if points else None,
    )
    return UserPrompt(frame=rows[0].frame, cell=rows[0].cell, row=rows[0].number, prompt=prompt)


def match_prompts(
    prompts: Sequence[UserPrompt], cells: Mapping[str, int], labels: LabelArray
) -> tuple[dict[str, UserPrompt], list[UserPrompt]]:
    """Give the prompts of one frame to its cells.

    A prompt that names its cell goes there. The others with a box go to the cells with the greatest total of box IoUs
    (:func:`hela_store.metrics.matching.match`), of which each is at least :data:`LEAST_OVERLAP`; those with points
    only go to the cell under their first point with label 1. A cell takes one prompt: one that names it before one
    with a box, and that before one with points only.

    Parameters
    ----------
    prompts : sequence of UserPrompt
    cells : mapping of cell id to label
        The cells that may be scored.
    labels : integer, (row, col)
        The frame's labels.

    Returns
    -------
    matched : dict of cell id to UserPrompt
    unmatched : list of UserPrompt

    Raises
    ------
    PromptError
        A prompt names a cell that is not among ``cells``.
    """
    matched: dict[str, UserPrompt] = {}
    for prompt in prompts:
        if prompt.cell is not None:
            if prompt.cell not in cells:
                hint = did_you_mean(prompt.cell, cells)
                raise PromptError(f"row {prompt.row}: there is no cell {prompt.cell!r} in frame {prompt.frame}{hint}")
            matched[prompt.cell] = prompt
    free = {label: cell for cell, label in cells.items() if cell not in matched}
    boxed = [prompt for prompt in prompts if prompt.cell is None and prompt.prompt.box is not None]
    if boxed and free:
        places = ndimage.find_objects(labels)
        found = [(cell, places[label - 1]) for label, cell in free.items() if label <= len(places)]
        found = [(cell, place) for cell, place in found if place is not None]
        cell_boxes = [(columns.start, rows.start, columns.stop, rows.stop) for _, (rows, columns) in found]
        boxes = [prompt.prompt.box for prompt in boxed if prompt.prompt.box is not None]
        for prompt, index in zip(boxed, match(box_iou(boxes, cell_boxes), LEAST_OVERLAP).partner, strict=True):
            if index >= 0:
                matched[found[int(index)][0]] = prompt
    for prompt in prompts:
        if prompt.cell is None and prompt.prompt.box is None:
            cell = free.get(label_under(prompt.prompt, labels))
            if cell is not None:
                matched.setdefault(cell, prompt)
    used = {id(prompt) for prompt in matched.values()}
    return matched, [prompt for prompt in prompts if id(prompt) not in used]


def label_under(prompt: Prompt, labels: LabelArray) -> int:
    """Return the label under the first point of a cell, 0 where there is no such point or it leaves the frame."""
    if prompt.points is None or prompt.point_labels is None:
        return 0
    x, y = np.floor(prompt.points[int(np.argmax(prompt.point_labels == 1))] + 0.5).astype(int)
    inside = 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]
    return int(labels[y, x]) if inside else 0


def match_masks(user_labels: LabelArray, truth_labels: LabelArray) -> dict[int, int]:
    """Give true cells the user's labels, one to one, with the greatest total of IoUs.

    Each IoU is at least :data:`LEAST_OVERLAP`. Of two cells that the user merged, the one that fits better gets the
    label.

    Parameters
    ----------
    user_labels, truth_labels : integer, (row, col), of the same shape
        0 is background.

    Returns
    -------
    dict of truth label to user label

    Raises
    ------
    PromptError
        The shapes differ, or the user's image holds no whole numbers.
    """
    if user_labels.shape != truth_labels.shape:
        raise PromptError(
            f"prompt masks of {user_labels.shape} (rows, cols) for a frame of {truth_labels.shape}; expected one size"
        )
    if user_labels.dtype.kind not in "uib":
        raise PromptError(f"prompt masks are {user_labels.dtype}, expected whole numbers, one per cell and 0 outside")
    pairs = shared_pixels(truth_labels, user_labels)
    partner = match(pairs.table(), LEAST_OVERLAP).partner
    matched = partner >= 0
    return dict(zip(pairs.first_labels[matched].tolist(), pairs.second_labels[partner[matched]].tolist(), strict=True))


def mask_prompt(user_labels: LabelArray, label: int) -> Prompt:
    """Make a mask prompt of one label of a user's label image, integer, (row, col).

    Raises
    ------
    PromptError
        The label has no pixel.
    """
    mask = user_labels == label
    x0, y0, x1, y1 = bbox(mask)
    if label == 0 or x1 == x0:
        raise PromptError(f"the prompt masks have no label {label}")
    return Prompt(kind="mask", mask=mask[y0:y1, x0:x1].copy(), mask_origin=(x0, y0))
