"""Write events of labelling into the log of a store, durably, one version for each call."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hela_store.base.files import clear_temporary
from hela_store.base.locks import labels_lock
from hela_store.errors import LabelError
from hela_store.store.label_changes import Change, Line
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

from .changes import FrameLabels, change_of, repeat, revert
from .events import LabelEvent
from .history import History

FRAMES_KEPT = 4
"""Frames whose labels and image are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A frame's image and its labels at the latest version."""

    image: npt.NDArray[Any]
    labels: FrameLabels


class LabelLog:
    """The log of a store's labels: append events, and each call makes a new version.

    The first :meth:`append`, or :meth:`hold`, takes the right to write, which only one process has, until
    :meth:`close`. It is a context manager that holds and closes.

    Parameters
    ----------
    store : Store
        Which version of the labels it reads does not matter.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.files = store.label_log
        self._lock: contextlib.ExitStack | None = None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_version = -1

    @property
    def version(self) -> int:
        """The latest version on disk; 0 where labels are as ingested."""
        return self.files.latest

    def events(self, upto: int | None = None) -> list[LabelEvent]:
        """Return all events up to a version, oldest first; raises StoreError as :meth:`lines`."""
        return [LabelEvent.from_json(line.event) for version in self.files.versions(upto) for line in version]

    def events_of(self, version: int) -> list[LabelEvent]:
        """Return the events of one version, from 1; raises StoreError as :meth:`events`."""
        return [LabelEvent.from_json(line.event) for line in self.files.versions(version)[version - 1]]

    def history(self) -> History:
        """Return what can be taken back and repeated now."""
        return History.of(self.files.versions())

    def hold(self) -> None:
        """Take the right to write, so that others are told.

        Raises
        ------
        StoreError
            Another process has it; its id and host are named.
        """
        if self._lock is None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(labels_lock(self.store.path))
                clear_temporary(self.files.segments.folder)
                self._lock = stack.pop_all()

    def close(self) -> None:
        """Give the right to write back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def label(self, frame: str) -> npt.NDArray[np.int32]:
        """Return a copy of the labels of a frame at the latest version, int32, (row, col), 0 is background."""
        self._catch_up()
        return self._frame(frame).labels.label.copy()

    def append(self, events: Iterable[LabelEvent]) -> int:
        """Write events as one new version; return its number after it is durable.

        Raises
        ------
        LabelError
            An event does not fit the labels that there are; nothing was written.
        StoreError
            Another process writes, the log is damaged, no space, or no permission; nothing was written.
        """
        events = list(events)
        if not events:
            raise LabelError("a new version of the labels needs at least one event")
        self.hold()
        versions = self._catch_up()
        History.of(versions).check(events)
        now: dict[str, _Kept] = {}
        lines = []
        for event in events:
            kept = now[event.frame] if event.frame in now else self._frame(event.frame)
            labels, change = self._change(event, kept, versions)
            now[event.frame] = replace(kept, labels=labels)
            lines.append({"event": event.to_json(), "change": change.to_json()})
        version = self.files.append(lines)
        for frame, kept in now.items():
            self._keep(frame, kept)
        self._kept_version = version
        return version

    def _change(
        self, event: LabelEvent, kept: _Kept, versions: Sequence[tuple[Line, ...]]
    ) -> tuple[FrameLabels, Change]:
        record = self._record(event.frame)
        if event.target is None:
            event.check_fits(record.shape)
            return change_of(self.store, record, kept.image, kept.labels, event)
        changes = [line.change for line in versions[event.target - 1] if line.change.frame == event.frame]
        if event.kind == "redo":
            return repeat(self.store, record, kept.image, kept.labels, changes)
        return revert(self.store, record, kept.image, kept.labels, (changes, self._before(event, versions)))

    def _before(self, event: LabelEvent, versions: Sequence[tuple[Line, ...]]) -> tuple[bool, bool]:
        """Return whether the frame had labels, and only some, before the version that an event takes back."""
        assert event.target is not None
        for version in reversed(versions[: event.target - 1]):
            for line in reversed(version):
                if line.change.frame == event.frame:
                    return line.change.has_label, line.change.partial
        record = self.store.at_labels(0).frame_records()[event.frame]
        return record.has_label, record.partial

    def _catch_up(self) -> Sequence[tuple[Line, ...]]:
        versions = self.files.versions()
        if len(versions) != self._kept_version:
            self._kept.clear()
            self._kept_version = len(versions)
        return versions

    def _record(self, frame: str) -> FrameRecord:
        records = self.store.at_labels(0).frame_records()
        if frame not in records:
            raise LabelError(f"{self.store.path} has no frame {frame!r}; its frames are named as 01/t012")
        return records[frame]

    def _frame(self, frame: str) -> _Kept:
        found = self._kept.get(frame)
        if found is None:
            self._record(frame)
            store = self.store.at_labels(self._kept_version)
            record = store.frame_records()[frame]
            label = store.pixels.label(frame).astype(np.int32, copy=True)
            labels = FrameLabels(label=label, has_label=record.has_label, partial=record.partial)
            found = _Kept(image=store.pixels.image(frame), labels=labels)
        self._keep(frame, found)
        return found

    def _keep(self, frame: str, kept: _Kept) -> None:
        self._kept[frame] = kept
        self._kept.move_to_end(frame)
        while len(self._kept) > FRAMES_KEPT:
            self._kept.popitem(last=False)
