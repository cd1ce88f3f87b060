"""Take label files that changed on disk into the label log; embeddings, which depend on no label, stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hela_store.base.sums import array_sum
from hela_store.datasets.entries import Entry
from hela_store.datasets.frame import Frame
from hela_store.errors import StoreError
from hela_store.labels.events import FILE, LabelEvent
from hela_store.labels.files import complete_event, counted, events_between, known_file_sum
from hela_store.labels.log import LabelLog
from hela_store.recipe.splits import SPLITS, members
from hela_store.runs.finished import readable_runs

if TYPE_CHECKING:
    from hela_store.store.store import Store

SCORED = ("evaluate", "control", "robustness", "baseline", "detect", "budget", "audit", "mend")
"""Kinds of runs that hold scores against labels."""
SHOWN = 5


@dataclass
class ChangedLabels:
    """Label files that are not those that the store knows.

    Attributes
    ----------
    store : Store
    events : list of LabelEvent
        What takes them in.
    edited : list of str
        Frames whose file changed and whose labels people changed as well; these keep what people did.
    """

    store: Store
    events: list[LabelEvent] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    _known: list[LabelEvent] | None = None
    _version: int = 0

    def look_at(self, frame: Frame, entry: Entry) -> None:
        """Compare the labels of a frame in the data set with those that the store knows.

        Raises
        ------
        StoreError
            The labels of the store, or their log, are damaged.
        """
        if frame.label is None:
            return
        if self._known is None:
            self._version = self.store.at_labels().labels_version
            self._known = LabelLog(self.store).events(self._version)
        ingested = self.store.at_labels(0).pixels.label(frame.id)
        known = known_file_sum(self._known, frame.id, ingested)
        label = frame.label.astype(np.int32, copy=False)
        if array_sum(frame.id, label) == known:
            return
        latest = self.store.at_labels(self._version)
        there = latest.pixels.label(frame.id)
        if array_sum(frame.id, there.astype(np.int32, copy=False)) != known:
            if not np.array_equal(there, label):
                self.edited.append(frame.id)
            return
        reason = ", ".join(str(plane.path) for plane in entry.labels.values())
        events = events_between(frame.id, there, label, who=FILE, reason=reason)
        if not latest.frame_records()[frame.id].has_label and not frame.partial:
            events.append(complete_event(events[0]))
        self.events += events

    def take_in(self) -> tuple[str, ...]:
        """Write the events as one version, and return what a reader has to know.

        Raises
        ------
        StoreError
            Another process changes labels, or did since they were compared, no space, or no permission; nothing was
            written.
        """
        notes = []
        if self.events:
            frames = list(dict.fromkeys(event.frame for event in self.events))
            with LabelLog(self.store) as log:
                if log.version != self._version:
                    raise StoreError(f"the labels became version {log.version} meanwhile; run the same command again")
                version = log.append(self.events)
            self.store.follow_labels(version)
            notes.append(
                f"label files of {len(frames)} frames changed ({_few(frames)}; cells: {counted(self.events)}) and are "
                f"version {version} of the labels now; every embedding is kept"
            )
            if stale := stale_runs(self.store, frames):
                notes.append(
                    f"{len(stale)} runs were scored on earlier labels of these frames ({_few(stale)}); "
                    "`hela-store score RUN --labels-version latest` scores stored masks of given prompts again; the "
                    "other runs are made again by the commands that made them"
                )
        if self.edited:
            notes.append(
                f"label files of {len(self.edited)} frames changed ({_few(self.edited)}), and so did people in this "
                "store; what people did is kept, `hela-store labels import` takes label files in their place"
            )
        return tuple(notes)


def stale_runs(store: Store, frames: Collection[str]) -> list[str]:
    """Return the runs whose scores are of frames whose labels changed since, oldest first."""
    changed, blocks, found = set(frames), store.blocks(), []
    for kind in SCORED:
        for run in readable_runs(store.path, kind):
            if run.labels_version >= store.labels_version or run.split not in SPLITS:
                continue
            if changed & set(members(blocks, run.split)):
                found.append(run.id)
    return sorted(found)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
