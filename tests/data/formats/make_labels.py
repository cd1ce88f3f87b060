"""Makes ``v1-labels/``, versions of the labels of the store ``v1/``: ``python make_labels.py OUT``. It was run once.

``OUT/labels`` is laid into a copy of ``v1/``, which has no other version than the labels as ingested.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.images import rle
from hela_store.labels.events import Box, Click, LabelEvent
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import free_label, label_at, undo
from hela_store.store.store import Store

WHEN = "2026-01-31T12:00:00+00:00"


def main(out: Path) -> None:
    place = Path(tempfile.mkdtemp()) / "v1"
    shutil.copytree(Path(__file__).parent / "v1", place)
    store = Store.open(place)
    frame = "01/t001"
    label = label_at(store, frame)
    cells = [int(cell) for cell in np.unique(label) if cell]
    about: dict[str, Any] = {"frame": frame, "who": "ann", "when": WHEN, "seconds": 2.5}
    left = (label == cells[0]) & (np.arange(label.shape[1]) < np.median(np.nonzero(label == cells[0])[1]))
    parts = (left, (label == cells[0]) & ~left)
    codes = tuple(rle.encode(part, (0, 0), label.shape) for part in parts)
    new = free_label(store, frame)
    with LabelLog(store) as log:
        click, box = Click(x=3.0, y=4.5, is_cell=False), Box(x0=1, y0=2, x1=30.5, y1=40)
        split = LabelEvent(kind="split", cells=(cells[0], new), masks=codes, clicks=(click,), boxes=(box,), **about)
        log.append([split])
        log.append([LabelEvent(kind="erase", cells=(cells[1],), reason="debris", **about)])
        undo(log, who="bob")
    shutil.copytree(place / "labels", out / "labels")
    shutil.rmtree(place.parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
