"""A process that appends to the label log of a store and is killed where it is told to, as :mod:`crashes` does.

``python label_crashes.py REQUEST`` takes JSON, ``{"store": path, "mode": "kill" | "torn" | "", "at": n}``. It erases each cell of
the first frame in a version of its own, takes the last one back, and writes down every version that it was given.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from crashes import Failing
from label_events import make_event

from hela_store.labels.log import LabelLog
from hela_store.labels.versions import undo
from hela_store.store.records import CellRecord
from hela_store.store.store import Store


def work(request: dict[str, Any]) -> None:
    path = Path(request["store"])
    told = os.open(path.with_suffix(".told"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = Store.open(path)
    frame = next(iter(store.frame_records()))
    cells = [cell.label for cell in CellRecord.of(store.at_labels(0).cells_table()) if cell.frame == frame]
    failing = Failing(path, request["mode"], request["at"])
    with LabelLog(store) as log:
        for cell in cells[log.version :]:
            version = log.append([make_event("erase", frame, (cell,))])
            os.write(told, f"{version}\n".encode())
        if log.version == len(cells):
            os.write(told, f"{undo(log, who='test')}\n".encode())
    failing.on = False
    path.with_suffix(".points").write_text(str(failing.count))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
