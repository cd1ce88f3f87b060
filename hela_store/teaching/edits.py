"""From what the page sends to an event of labelling; whatever does not fit the frame is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.errors import LabelError, RunError
from hela_store.images.rle import Rle, decode_crop, encode, trim
from hela_store.labels.events import Box, Click, LabelEvent
from hela_store.labels.versions import now

Label = npt.NDArray[np.int32]
LEAST_FREE = 0.5
"""Share of a new cell's mask that must not belong to other cells: below, it is one of them seen again."""
MOST_TEXT = 1 << 20
"""Longest run-length code that is read."""
LONGEST = 600.0
"""Seconds above which the time for one label is not believed: the person was elsewhere."""


def event_of(asked: Mapping[str, Any], frame: str, label: Label, who: str, free: Callable[[], int]) -> LabelEvent:
    """Return the event that a page asks for.

    Parameters
    ----------
    asked : mapping
        ``kind``, and with it ``counts`` (of an added or replaced mask), ``cell`` or ``cells``, ``line`` (of a split),
        ``prompt`` and ``seconds``.
    frame : id
    label : int32, (row, col), the labels of the frame as they are
    who : who did it
    free : returns a label that no cell has

    Raises
    ------
    LabelError
        It does not fit: an unknown kind or cell, a mask beyond the frame, empty, or on other cells.
    """
    kind, shape = asked.get("kind"), (label.shape[0], label.shape[1])
    about: dict[str, Any] = {"frame": frame, "who": who, "when": now(), "seconds": seconds_of(asked.get("seconds"))}
    prompt = asked.get("prompt")
    if isinstance(prompt, Mapping):
        about |= _prompts(prompt)
    if kind == "add":
        mask = _mask(asked.get("counts"), shape)
        _check_free(mask, label)
        return LabelEvent(kind="add", cells=(free(),), masks=(mask,), **about)
    if kind == "replace":
        mask = _mask(asked.get("counts"), shape)
        return LabelEvent(kind="replace", cells=_cells([asked.get("cell")]), masks=(mask,), **about)
    if kind == "split":
        cell = _cells([asked.get("cell")])[0]
        first, second = split(label, cell, asked.get("line"))
        return LabelEvent(kind="split", cells=(cell, free()), masks=(first, second), **about)
    if kind == "erase":
        return LabelEvent(kind="erase", cells=_cells(asked.get("cells")), **about)
    if kind == "merge":
        return LabelEvent(kind="merge", cells=_cells(asked.get("cells")), **about)
    raise LabelError(f"an edit of kind {kind!r} is unknown, expected add, replace, erase, split or merge")


def split(label: Label, cell: int, line: Any) -> tuple[Rle, Rle]:
    """Return the two parts of a cell on the two sides of a line, the larger one first.

    Parameters
    ----------
    label : int32, (row, col)
    cell : which label is split
    line : ``[[x0, y0], [x1, y1]]`` px, frame, where pixel (0, 0) covers 0 to 1; it goes on beyond its ends
    """
    try:
        (x0, y0), (x1, y1) = (tuple(map(float, end)) for end in line)
    except (TypeError, ValueError, OverflowError):
        raise LabelError("a split needs a line, [[x0, y0], [x1, y1]] px") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or (x0, y0) == (x1, y1):
        raise LabelError("the line of a split has no direction; draw it across the cell")
    shape = (label.shape[0], label.shape[1])
    mask, (left, top) = trim(label == cell)
    rows, columns = np.indices(mask.shape) + 0.5
    side = (x1 - x0) * (rows + top - y0) - (y1 - y0) * (columns + left - x0) > 0
    parts: list[BoolArray] = sorted((mask & side, mask & ~side), key=lambda part: -int(part.sum()))
    if not parts[1].any():
        raise LabelError(f"the line does not cross cell {cell}; draw it through the cell")
    first, second = (encode(part, (left, top), shape) for part in parts)
    return first, second


def _mask(counts: Any, shape: tuple[int, int]) -> Rle:
    if not isinstance(counts, str) or len(counts) > MOST_TEXT:
        raise LabelError("a mask has to be a run-length code of the frame")
    try:
        mask, origin = decode_crop(counts, *shape)
    except RunError as error:
        raise LabelError(f"the mask does not fit the frame: {error}") from None
    if not mask.any():
        raise LabelError("the mask is empty; delete the cell instead")
    return encode(mask, origin, shape)


def _check_free(rle: Rle, label: Label) -> None:
    mask, (x, y) = decode_crop(rle.counts, *label.shape)
    under = label[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
    if (under == 0).mean() < LEAST_FREE:
        cell = int(np.bincount(np.unique(under[under > 0], return_inverse=True)[1]).argmax())
        raise LabelError(
            f"more than half of that mask belongs to cell {np.unique(under[under > 0])[cell]} already; choose that "
            "cell to correct it, or delete it first"
        )


def _cells(given: Any) -> tuple[int, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(type(cell) is int for cell in given):
        raise LabelError("cells have to be labels, whole numbers")
    return tuple(given)


def seconds_of(given: Any) -> float:
    """Return how long the person took, as far as the page can be believed."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return 0.0
    return float(min(max(given, 0.0), LONGEST))


def _prompts(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return clicks, boxes and the reason of an event; what the page says of how a mask came about."""
    try:
        clicks = tuple(Click(x=float(x), y=float(y), is_cell=bool(n)) for x, y, n in prompt.get("points") or ())
        box = prompt.get("box")
        boxes = () if box is None else (Box(**dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))),)
    except (TypeError, ValueError, OverflowError):
        raise LabelError(
            "the prompt of an edit needs points, [x, y, 1 or 0] each, and a box, [x0, y0, x1, y1]"
        ) from None
    painted = prompt.get("painted")
    reason = {"brush": "painted", "erase": "erased in part"}.get(painted, "") if isinstance(painted, str) else ""
    if prompt.get("rule"):
        reason = f"next: {'random, the control' if prompt.get('random') is True else 'by the rule'}"
    return {"clicks": clicks, "boxes": boxes, "reason": reason}
