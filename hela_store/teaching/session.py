"""The labels as pages see and change them: what is answered as saved is on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.errors import ConflictError, QueryError
from hela_store.labels.events import FILE, LabelEvent
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import free_label, redo, undo
from hela_store.show.viewer.frames import drawn_cells, known_frame
from hela_store.store.store import Store

from .deal import Deal, Dealt
from .edits import event_of
from .retune import learned_cells

GONE = 65.0
"""Seconds without a sign of life after which a page counts as closed; browsers slow down pages that nobody looks at."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Describe what an edit did.

    Attributes
    ----------
    version : the version of the labels that it made
    base : the version before it
    frame : id
    named : labels of the cells that it concerned; None where all cells of the frame may have changed
    """

    version: int
    base: int
    frame: str
    named: tuple[int, ...] | None


class Session:
    """The labels of a store while pages change them. One process at a time holds the right to.

    Parameters
    ----------
    store : Store
    who : str
        Kept with every label.
    held : float
        Share of the cells that judges and is never trained on.
    """

    def __init__(self, store: Store, who: str, held: float) -> None:
        self.store, self.who, self.held = store, who, held
        self.lock = RLock()
        self.log = LabelLog(store)
        self.log.hold()
        self._free: dict[str, int] = {}
        self._deal = Deal(store, held, learned_cells(store))
        self._events: list[list[LabelEvent]] = []
        self._pages: dict[str, tuple[float, str]] = {}
        self._changed: dict[str, dict[int, int]] = {}
        self.taught: dict[str, set[int]] = {}
        self._count_taught()

    def close(self) -> None:
        """Give the right to change labels back."""
        self.log.close()

    # what is there

    def label(self, frame: str) -> npt.NDArray[np.int32]:
        """Return the labels of a frame at the latest version, int32, (row, col)."""
        known_frame(self.store, frame)
        with self.lock:
            return self.log.label(frame)

    def cells(self, frame: str, only: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the cells of a frame as a page draws them; of ``only`` these labels where they are given."""
        taught = self.taught.get(frame, set())
        return [
            about | {"taught": about["label"] in taught, "held": self._judges(frame, about["label"], taught)}
            for about in drawn_cells(self.label(frame), only)
        ]

    def _judges(self, frame: str, cell: int, taught: set[int]) -> bool:
        return cell in taught and self.is_held(frame, cell)

    def is_held(self, frame: str, cell: int) -> bool:
        """Return whether a cell judges and never trains, as dealt before anything is learned."""
        dealt = self._deal.of(frame, cell)
        return dealt is not None and dealt.part == "judge"

    def taught_cells(self) -> list[tuple[str, int]]:
        """Return all cells that people made or changed, (frame, label), in a fixed order."""
        with self.lock:
            return sorted((frame, cell) for frame, cells in self.taught.items() for cell in cells)

    def taught_labels(self) -> list[tuple[str, npt.NDArray[np.int32], set[int]]]:
        """Return frames with their label images, int32, (row, col), and the labels of the cells that people made."""
        with self.lock:
            return [(frame, self.label(frame), set(cells)) for frame, cells in self.taught.items() if cells]

    def dealt(self) -> dict[tuple[str, int], Dealt]:
        """Return what the taught cells of the training block are for, by (frame, label)."""
        with self.lock:
            found = {cell: self._deal.of(*cell) for cell in self.taught_cells()}
        return {cell: dealt for cell, dealt in found.items() if dealt is not None}

    # what changes

    def edit(self, frame: str, asked: Mapping[str, Any]) -> Saved:
        """Make the change that a page asks for.

        Raises
        ------
        LabelError
            It does not fit the labels.
        ConflictError
            Another page changed a cell of it since the version that the page saw.
        StoreError
            It cannot be written; nothing was.
        """
        record = known_frame(self.store, frame)
        with self.lock:
            event = event_of(asked, record.frame, self.log.label(record.frame), self.who, lambda: self._label(frame))
            known = event.cells[:1] if event.kind == "split" else event.cells if event.kind != "add" else ()
            self.check_current(frame, known, asked.get("version"))
            return self.append([event])

    def append(self, events: Sequence[LabelEvent]) -> Saved:
        """Append events of one frame as one version; durable when this returns."""
        with self.lock:
            base = self.log.version
            version = self.log.append(events)
            self._read_events()
            for event in events:
                self._remember(version, event)
            named = tuple(cell for event in events for cell in event.cells)
            return Saved(version=version, base=base, frame=events[0].frame, named=named)

    def again(self, way: str) -> Saved | None:
        """Take back (``"undo"``) or repeat (``"redo"``) a version; None where there is none."""
        with self.lock:
            base, step = self.log.version, {"undo": undo, "redo": redo}[way]
            version = step(self.log, who=self.who)
            if version is None:
                return None
            self._count_taught()
            (made, *others), target = self._events[version - 1], self._events[version - 1][0].target
            for event in (made, *others):
                self._changed.setdefault(event.frame, {})[0] = version
            assert target is not None
            named = None if others else tuple(cell for event in self._events[target - 1] for cell in event.cells)
            return Saved(version=version, base=base, frame=made.frame, named=named)

    def new_labels(self, frame: str, count: int) -> list[int]:
        """Return labels that no cell has."""
        return [self._label(frame) for _ in range(count)]

    def can(self) -> dict[str, bool]:
        """Return whether there is something to take back and to repeat."""
        with self.lock:
            history = self.log.history()
        return {"undo": bool(history.done), "redo": bool(history.undone)}

    def _label(self, frame: str) -> int:
        sequence = known_frame(self.store, frame).sequence
        label = self._free.get(sequence) or free_label(self.store, frame)
        self._free[sequence] = label + 1
        return label

    def changed(self, frame: str, cell: int) -> int:
        """Return the version of the labels that changed a cell last; 0 where none of this visit did."""
        changed = self._changed.get(frame, {})
        return max(changed.get(cell, 0), changed.get(0, 0))

    def check_current(self, frame: str, cells: Sequence[int], seen: Any) -> None:
        """Raise ConflictError where one of the cells was changed since the version that a page saw."""
        if type(seen) is not int or not 0 <= seen <= self.log.version:
            raise QueryError("an edit needs the version of the labels that the page shows; reload the page")
        late = [cell for cell in cells if self.changed(frame, cell) > seen]
        if late:
            raise ConflictError(f"cell {late[0]} was changed in another page since; it is shown as it is now")

    def _remember(self, version: int, event: LabelEvent) -> None:
        changed, taught = self._changed.setdefault(event.frame, {}), self.taught.setdefault(event.frame, set())
        for cell in event.cells:
            changed[cell] = version
        if event.who != FILE:
            taught.update(event.cells)
            gone = event.cells if event.kind == "erase" else event.cells[1:] if event.kind == "merge" else ()
            taught.difference_update(gone)

    def _count_taught(self) -> None:
        """Find the taught cells from the versions that stand."""
        self._read_events()
        self.taught = {}
        for number in self._standing():
            for event in self._events[number - 1]:
                self._remember(number, event)

    def _read_events(self) -> None:
        """Read the versions that are new, and deal their cells; also those that are taken back later stay dealt."""
        for version in self.log.files.versions()[len(self._events) :]:
            self._events.append([LabelEvent.from_json(line.event) for line in version])
            self._deal.note(self._events[-1])

    def _standing(self) -> list[int]:
        """Return the versions that are not taken back."""
        standing = set(range(1, len(self._events) + 1))
        for events in self._events:
            if events[0].target is not None:
                (standing.discard if events[0].kind == "undo" else standing.add)(events[0].target)
        return sorted(standing)

    def named_since(self, version: int) -> set[tuple[str, int]]:
        """Return the cells, (frame, label), that events after a version name, unless they were taken back."""
        with self.lock:
            self._read_events()
            later = [self._events[number - 1] for number in self._standing() if number > version]
            return {(event.frame, cell) for events in later for event in events for cell in event.cells}

    # who is here

    def seen(self, page: str, frame: str) -> str:
        """Note a sign of life of a page; return what it has to be told of others."""
        now = time.monotonic()
        with self.lock:
            self._pages[page[:64]] = (now, frame)
            self._pages = {name: at for name, at in self._pages.items() if now - at[0] < GONE}
            others = [where for name, (_, where) in self._pages.items() if name != page[:64]]
        if not others:
            return ""
        same = sum(where == frame for where in others)
        subject = f"{len(others)} other pages have" if len(others) > 1 else "1 other page has"
        return f"{subject} this store open, {same} of them this frame"

    def left(self, page: str) -> None:
        """Note that a page was closed."""
        with self.lock:
            self._pages.pop(page[:64], None)
