"""Label changes: what each version of the labels changes in each frame, read from ``<store>/labels``.

Labels as ingested are version 0. Every segment of the log is one version; it says which pixels of which frames get
another label, and which cells are then other cells. A reader therefore needs no knowledge of how a person made the
change (:mod:`hela_store.labels`). Each segment holds the sum of its lines and of the segment before it, so that a
damaged, swapped or missing one is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.aliases import LabelArray
from hela_store.base.segments import Segment, label_segments
from hela_store.base.sums import array_sum
from hela_store.base.text import first_line
from hela_store.errors import RESTORE_LABELS, RunError, StoreError
from hela_store.images.rle import decode_crop

from .records import CellRecord
from .tables import CELLS_SCHEMA

EDITED = "edited"
"""Origin of the labels of a frame that was ingested without any."""
Patches = tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change that one event of a version makes in one frame.

    Attributes
    ----------
    frame : str
        Id of the frame.
    patches : tuple of (int, str)
        The label that pixels get, 0 for background, and which pixels: COCO run-length codes in frame coordinates. No
        pixel is in two of them.
    before : tuple of (int, str)
        The labels that these pixels had, in the same form.
    cells : tuple of CellRecord
        Cells of the frame that are new or measure differently.
    gone : tuple of int
        Labels of cells that are no more.
    sum : str
        :func:`hela_store.base.sums.array_sum` of the whole label image after the change.
    has_label : bool
        Whether the frame counts as labelled after it.
    partial : bool
        Whether only some of its cells are labelled after it.
    """

    frame: str
    patches: Patches
    before: Patches
    cells: tuple[CellRecord, ...]
    gone: tuple[int, ...]
    sum: str
    has_label: bool
    partial: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Change:
        """Return the change that :meth:`to_json` gave; raises ValueError, KeyError or TypeError for other values."""
        if set(raw) != {field.name for field in fields(cls)}:
            raise ValueError("a change has other fields than expected")
        cells = tuple(CellRecord(**cell) for cell in raw["cells"])
        now, before = (
            tuple((int(label), str(counts)) for label, counts in raw[name]) for name in ("patches", "before")
        )
        rest = {name: raw[name] for name in ("frame", "sum", "has_label", "partial")}
        gone = tuple(int(label) for label in raw["gone"])
        return cls(**rest, patches=now, before=before, cells=cells, gone=gone)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the log: the version it belongs to, the event as it was written, and what it changes."""

    version: int
    event: Mapping[str, Any]
    change: Change


def apply_patches(label: LabelArray, patches: Patches) -> None:
    """Write patches into a label image, int32, (row, col), in place; RunError where a code does not fit it."""
    for value, counts in patches:
        mask, (x, y) = decode_crop(counts, label.shape[0], label.shape[1])
        label[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = value


class LabelLogFiles:
    """The versions of the labels as they lie on disk.

    Parameters
    ----------
    store : Path
        Folder of the store; the first version makes ``labels`` in it.
    """

    def __init__(self, store: Path) -> None:
        self.segments = label_segments(store)
        self._lines: list[tuple[Line, ...]] = []
        self._sum = ""

    @property
    def latest(self) -> int:
        """The latest version; 0 where labels are as ingested. Raises StoreError where an earlier one is missing."""
        return self.segments.latest

    def versions(self, upto: int | None = None) -> Sequence[tuple[Line, ...]]:
        """Return the lines of each version from 1 to ``upto`` (default: the latest); only new segments are read.

        Raises
        ------
        StoreError
            There are fewer versions, or a segment is missing or damaged.
        """
        if upto == 0:
            return []
        latest = self.latest
        upto = latest if upto is None else upto
        if not 0 <= upto <= latest:
            found = f"there is no version {upto} of the labels; the latest is {latest}"
            raise StoreError(f"{found}; `hela-store labels log` lists them")
        for segment in self.segments.chain(upto, after=len(self._lines), before=self._sum):
            self._lines.append(self._parsed(len(self._lines) + 1, segment))
            self._sum = segment.sum
        return self._lines[:upto]

    def append(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Write the lines of the next version durably, whole or not at all; return its number.

        The caller holds the lock of the log. Raises StoreError where there is no space or no permission.
        """
        version = len(self.versions()) + 1
        self.segments.write(version, self._sum, lines)
        return version

    def _parsed(self, version: int, segment: Segment) -> tuple[Line, ...]:
        try:
            return tuple(
                Line(version=version, event=line["event"], change=Change.of(line["change"])) for line in segment.lines
            )
        except (ValueError, KeyError, TypeError) as error:
            where = self.segments.path(version)
            raise StoreError(f"{where} is damaged ({first_line(error)}); {RESTORE_LABELS}") from None


@dataclass(frozen=True, kw_only=True)
class FrameState:
    """A frame as a version of the labels has it, beside how it was ingested.

    Attributes
    ----------
    version : int
        The latest version that changed the frame.
    changes : tuple of Change
        All changes up to it, in their order.
    """

    version: int
    changes: tuple[Change, ...]

    @property
    def last(self) -> Change:
        """The change that says how the frame is now."""
        return self.changes[-1]

    def cells(self) -> dict[int, CellRecord | None]:
        """Return the cells that are not as ingested by label; None for those that are no more."""
        found: dict[int, CellRecord | None] = {}
        for change in self.changes:
            found |= dict.fromkeys(change.gone)
            found |= {cell.label: cell for cell in change.cells}
        return found

    def difference(self, ingested: LabelArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return which pixels of the label image as ingested differ, as flat indices, and their labels now.

        Raises
        ------
        StoreError
            The changes do not lead to the label image that was written.
        """
        label = ingested.astype(np.int32, copy=True)
        try:
            for change in self.changes:
                apply_patches(label, change.patches)
        except RunError as error:
            raise StoreError(f"version {self.version} of the labels of {self.last.frame} is damaged: {error}") from None
        if array_sum(self.last.frame, label) != self.last.sum:
            raise StoreError(
                f"version {self.version} of the labels of frame {self.last.frame} is not the one that was written; "
                "`hela-store verify` says what is damaged"
            )
        index = np.flatnonzero(label != ingested)
        return index, label.ravel()[index]


def frame_states(versions: Sequence[tuple[Line, ...]]) -> dict[str, FrameState]:
    """Return the state of every frame that these versions changed, by frame id."""
    found: dict[str, list[Change]] = {}
    last: dict[str, int] = {}
    for line in _lines(versions):
        found.setdefault(line.change.frame, []).append(line.change)
        last[line.change.frame] = line.version
    return {frame: FrameState(version=last[frame], changes=tuple(changes)) for frame, changes in found.items()}


def _lines(versions: Sequence[tuple[Line, ...]]) -> Iterator[Line]:
    for version in versions:
        yield from version


def changed_cells(cells: pa.Table, states: Mapping[str, FrameState], order: Sequence[str]) -> pa.Table:
    """Return a table of cells in which the changed frames have the cells of their state.

    Parameters
    ----------
    cells : pyarrow.Table
        As ingested, columns of `CELLS_SCHEMA`.
    states : mapping of frame id to FrameState
    order : sequence of str
        Frame ids in the order of the table.
    """
    changed = {frame: state.cells() for frame, state in states.items()}
    frames, labels = cells["frame"].to_pylist(), cells["label"].to_pylist()
    kept = [label not in changed.get(frame, ()) for frame, label in zip(frames, labels, strict=True)]
    new = [asdict(cell) for found in changed.values() for cell in found.values() if cell is not None]
    table = pa.concat_tables([cells.filter(pa.array(kept, pa.bool_())), pa.Table.from_pylist(new, schema=CELLS_SCHEMA)])
    places = {frame: place for place, frame in enumerate(order)}
    ranks = np.array([places[frame] for frame in table["frame"].to_pylist()], np.int64)
    return table.take(np.lexsort((table["label"].to_numpy(), ranks)))


def changed_frames(frames: pa.Table, states: Mapping[str, FrameState]) -> pa.Table:
    """Return a table of frames in which those that were changed say whether they have labels, and whether all."""
    if not states:
        return frames
    rows = frames.select(["frame", "has_label", "partial", "label_origin"]).to_pylist()
    for row in rows:
        if state := states.get(row["frame"]):
            row |= {"has_label": state.last.has_label, "partial": state.last.partial}
            row["label_origin"] = (row["label_origin"] or EDITED) if state.last.has_label else ""
    for name in ("has_label", "partial", "label_origin"):
        place, field = frames.schema.get_field_index(name), frames.schema.field(name)
        frames = frames.set_column(place, field, pa.array([row[name] for row in rows], field.type))
    return frames
