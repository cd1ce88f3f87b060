"""Describe one event of labelling: what was done to which cells of one frame, by whom, from which clicks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from hela_store.base.checks import did_you_mean
from hela_store.base.text import visible
from hela_store.errors import LabelError, RunError
from hela_store.images.rle import Rle, decode

Kind = Literal["add", "replace", "erase", "split", "merge", "complete", "undo", "redo"]
KINDS: tuple[str, ...] = get_args(Kind)
FILE = "file"
"""``who`` of an event that took in a label file of the data set that changed on disk."""
HIGHEST_LABEL = (1 << 31) - 1
MOST_CELLS = 100_000
MOST_PROMPTS = 10_000
LONGEST_TEXT = 1_000
"""Most characters of ``who``, ``when``, ``reason`` and ``sum``."""
LONGEST_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Click:
    """A click: ``x`` and ``y`` px, frame, and whether it is on the cell or on background."""

    x: float
    y: float
    is_cell: bool = True


@dataclass(frozen=True, kw_only=True)
class Box:
    """A bounding box, px, frame; ``x1`` and ``y1`` exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, kw_only=True)
class LabelEvent:
    """One event of labelling.

    Attributes
    ----------
    kind : str
        ``"add"`` makes cells, ``"replace"`` gives cells other masks, ``"erase"`` removes cells, ``"split"`` gives a
        cell and its new parts their masks, ``"merge"`` makes all cells part of the first one, ``"complete"`` says that
        every cell of the frame is labelled, ``"undo"`` and ``"redo"`` take back or repeat the version ``target``.
    frame : str
        Id of the frame, such as ``"01/t012"``.
    cells : tuple of int
        Labels of the cells that it concerns; of a merge the first one stays.
    masks : tuple of Rle
        The mask of each cell in frame coordinates, in the order of ``cells``. A merge may have one mask, of the first
        cell. An event never takes a pixel of a cell that it does not name.
    clicks : tuple of Click
    boxes : tuple of Box
        The prompts that it was made with.
    seconds : float
        How long the person took.
    who : str
        Who made it; ``"file"`` where a label file of the data set changed on disk.
    when : str
        UTC, ISO 8601, such as ``"2026-01-31T12:00:00+00:00"``.
    reason : str
        Why, in words; the path of the file for events from files.
    sum : str
        Of an event from a file the sum of the file's whole label image, else empty.
    target : int or None
        The version that is taken back or repeated, of ``"undo"`` and ``"redo"``.
    """

    kind: Kind
    frame: str
    cells: tuple[int, ...] = ()
    masks: tuple[Rle, ...] = ()
    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    seconds: float = 0.0
    who: str
    when: str
    reason: str = ""
    sum: str = ""
    target: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = did_you_mean(str(self.kind), KINDS)
            raise LabelError(f"the kind of a label event is {self.kind!r}, expected one of {', '.join(KINDS)}{hint}")
        self._check_texts()
        self._check_cells()
        self._check_numbers()
        if (self.target is not None) != (self.kind in ("undo", "redo")):
            raise LabelError(f"a label event of kind {self.kind} has target {self.target}; only undo and redo have one")

    def _check_texts(self) -> None:
        for name in ("frame", "who", "when", "reason", "sum"):
            value = getattr(self, name)
            seen = isinstance(value, str) and visible(value) == value and not set("\n\t") & set(value)
            if not seen or len(value) > LONGEST_TEXT:
                raise LabelError(f"{name} of a label event must be text of at most {LONGEST_TEXT} visible characters")
        if not self.frame or not self.who:
            raise LabelError("a label event needs a frame and a who")
        try:
            offset = datetime.fromisoformat(self.when).utcoffset()
        except ValueError:
            offset = None
        if offset is None or offset.total_seconds() != 0:
            raise LabelError(f"when of a label event is {self.when!r}, expected UTC such as 2026-01-31T12:00:00+00:00")

    def _check_cells(self) -> None:
        cells, masks = self.cells, self.masks
        if len(cells) > MOST_CELLS or len(set(cells)) != len(cells):
            raise LabelError(f"a label event names {len(cells)} cells, expected at most {MOST_CELLS} different ones")
        for cell in cells:
            if not _is_whole(cell) or not 1 <= cell <= HIGHEST_LABEL:
                raise LabelError(f"a label event names cell {cell!r}, expected whole numbers from 1 to {HIGHEST_LABEL}")
        if self.kind in ("undo", "redo", "complete"):
            right = not cells and not masks
        elif self.kind == "erase":
            right = bool(cells) and not masks
        elif self.kind == "merge":
            right = len(cells) > 1 and len(masks) <= 1
        else:
            right = len(cells) >= (2 if self.kind == "split" else 1) and len(masks) == len(cells)
        if not right:
            raise LabelError(
                f"a label event of kind {self.kind} has {len(cells)} cells and {len(masks)} masks; {_RULE}"
            )

    def _check_numbers(self) -> None:
        if len(self.clicks) + len(self.boxes) > MOST_PROMPTS:
            raise LabelError(f"a label event has more than {MOST_PROMPTS} clicks and boxes")
        numbers: list[Any] = [self.seconds]
        numbers += [value for click in self.clicks for value in (click.x, click.y)]
        numbers += [value for box in self.boxes for value in (box.x0, box.y0, box.x1, box.y1)]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
            raise LabelError("seconds, clicks and boxes of a label event must be finite numbers")
        if not 0 <= self.seconds <= LONGEST_SECONDS:
            raise LabelError(f"seconds of a label event is {self.seconds:g}, expected 0 to {LONGEST_SECONDS:g}")
        if self.target is not None and (not _is_whole(self.target) or self.target < 1):
            raise LabelError(f"target of a label event is {self.target!r}, expected a version from 1")

    def check_fits(self, shape: tuple[int, int]) -> None:
        """Raise LabelError unless every mask is one of a frame of ``(rows, cols)`` px and has a pixel."""
        for cell, mask in zip(self.cells, self.masks, strict=False):
            try:
                pixels, _ = decode(mask, shape)
            except RunError as error:
                raise LabelError(f"the mask of cell {cell} of frame {self.frame} does not fit: {error}") from None
            if not pixels.any():
                raise LabelError(f"the mask of cell {cell} of frame {self.frame} is empty; erase the cell instead")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: object) -> LabelEvent:
        """Return the event that :meth:`to_json` gave.

        Raises
        ------
        LabelError
            A value is missing, unknown, or of another type than expected.
        """
        if not isinstance(raw, Mapping):
            raise LabelError("a label event must be a table of names and values")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(str(name) for name in raw.keys() - known):
            raise LabelError(f"a label event has no {visible(unknown[0])!r}{did_you_mean(unknown[0], known)}")
        try:
            parts: dict[str, Any] = dict(raw)
            for name, kind in (("masks", Rle), ("clicks", Click), ("boxes", Box)):
                parts[name] = tuple(kind(**item) for item in _listed(raw.get(name, ())))
            parts["cells"] = tuple(_listed(raw.get("cells", ())))
            for mask in parts["masks"]:
                if not (isinstance(mask.counts, str) and _is_whole(mask.height) and _is_whole(mask.width)):
                    raise LabelError("a mask of a label event needs counts, height and width")
            for click in parts["clicks"]:
                if not isinstance(click.is_cell, bool):
                    raise LabelError("is_cell of a click must be true or false")
            return cls(**parts)
        except TypeError as error:
            what = re.sub(r"^.*__init__\(\) ", "", str(error))
            raise LabelError(f"a label event cannot be read: {what}") from None


_RULE = (
    "add, replace and split need a mask for each cell, erase and merge name cells (a merge at least two, with at most "
    "one mask), undo, redo and complete name none"
)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or len(value) > MOST_CELLS:
        raise LabelError(f"cells, masks, clicks and boxes of a label event must be lists of at most {MOST_CELLS}")
    return value
