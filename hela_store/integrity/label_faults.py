"""Say what can be wrong with the log of label changes; nothing makes labels again that people drew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hela_store.base.segments import LABELS
from hela_store.errors import HelaError
from hela_store.labels.log import LabelLog
from hela_store.runs.finished import readable_runs
from hela_store.store.store import Store

from .store_faults import Fault


def label_faults(store: Store) -> Iterator[Fault]:
    """Yield what is wrong with versions of the labels: damaged segments, changes that lead elsewhere, lost versions.

    The labels of every frame that changed are made again from those as ingested, compared with the sum that the log
    has, and with the areas of the cells in it.
    """
    log = LabelLog(store)
    try:
        log.events()
        latest = store.at_labels()
        states = latest.label_states()
    except HelaError as error:
        yield Fault(kind="damaged", path=LABELS, note=str(error))
        return
    areas: dict[str, dict[int, int]] = {frame: {} for frame in states}
    columns = (latest.cells_table()[name].to_pylist() for name in ("frame", "label", "area"))
    for frame, label, area in zip(*columns, strict=True):
        if frame in areas:
            areas[frame][label] = area
    for frame in states:
        if note := _wrong(latest, frame, areas[frame]):
            yield Fault(kind="damaged", path=LABELS, note=note, frame=frame)
    for run in readable_runs(store.path):
        if run.labels_version > latest.labels_version:
            note = f"it read version {run.labels_version} of the labels, and the log ends at {latest.labels_version}"
            yield Fault(kind="damaged", path=f"runs/{run.id}", note=note)


def _wrong(store: Store, frame: str, areas: dict[int, int]) -> str:
    try:
        label = store.pixels.label(frame)
    except HelaError as error:
        return str(error)
    values, counts = np.unique(label[label > 0], return_counts=True)
    there = dict(zip(values.tolist(), counts.tolist(), strict=True))
    if there == areas:
        return ""
    return f"the cells that the log has of frame {frame} are not those of its labels"
