"""`hela-store bench teach`: how long a person waits for the page of `hela-store teach`, over loopback.

The server is a process of its own on a drawn store. It is asked as the page asks it, one question after the other. What
the browser adds, such as the 25 ms that the pointer has to rest and the drawing, is not in these numbers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.torch import save_file

from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.images.rle import encode
from hela_store.labels.events import LabelEvent
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import now
from hela_store.sam.build import random_sam
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.server import teach
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

SHAPE = (700, 1100)
DISC = 12
"""Diameter of the accepted cells of the crowded frame, px."""
TAUGHT = 30
"""Cells on which the decoder is fine-tuned beside the page."""
LOOK = 10
"""Hovers between two looks at whether that has ended."""


@dataclass(frozen=True, kw_only=True)
class TeachBench:
    """Milliseconds that the page waits, by what it asks.

    All masks are asked for in the same frame, with the same questions.

    Attributes
    ----------
    encoder, device, hovers, cells, events : conditions; ``cells`` are accepted in the frame when it is crowded
    first_hover_ms : the first one after the frame was opened
    hover_p50_ms, hover_p95_ms, hover_most_bytes : hover to outline
    beside_hovers, beside_p50_ms, beside_p95_ms : hovers while the decoder is fine-tuned beside the page, as many of
        them as were answered before that ended; None where there was none
    crowded_p50_ms, crowded_p95_ms : hovers in the crowded frame
    crowded_open_ms, crowded_open_bytes : its cells, once
    next_ms : median of the next cell
    saved_p50_ms, saved_p95_ms : from an edit to the answer that it is saved, in the crowded frame
    memory_before_mib, memory_after_mib : of the server, before and after the events
    """

    encoder: str
    device: str
    hovers: int
    cells: int
    events: int
    first_hover_ms: float
    hover_p50_ms: float
    hover_p95_ms: float
    hover_most_bytes: int
    beside_hovers: int
    beside_p50_ms: float | None
    beside_p95_ms: float | None
    crowded_p50_ms: float
    crowded_p95_ms: float
    crowded_open_ms: float
    crowded_open_bytes: int
    next_ms: float
    saved_p50_ms: float
    saved_p95_ms: float
    memory_before_mib: float
    memory_after_mib: float


def bench_teach(
    *,
    encoder: str = "nano",
    hovers: int = 200,
    cells: int = 2000,
    events: int = 1000,
    device: str = "auto",
    progress: Progress = silent,
) -> TeachBench:
    """Time the page's questions.

    Parameters
    ----------
    encoder : ``"nano"``, or ``"vit_b"`` with random weights: its decoder reads the whole embedding
    hovers : how many masks are asked for: in the frame as it is, beside a fine-tuning, and in the crowded frame
    cells : accepted cells of the crowded frame, at most 3000
    events : edits after which memory is weighed again
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    progress : shown part by part
    """
    with tempfile.TemporaryDirectory() as folder:
        store = _drawn(Path(folder) / "teach", encoder, device, progress)
        frame, other, *_ = store.frame_records()
        _teach(store, other)
        found: dict[str, Any] = {
            "encoder": encoder,
            "device": device,
            "hovers": hovers,
            "cells": cells,
            "events": events,
        }
        with _served(store.path, device) as server:
            found |= _hovers(server, frame, hovers, progress)
            found |= _beside(server, frame, hovers, progress)
        _accept(store, frame, cells)
        with _served(store.path, device) as server:
            found |= _crowded(server, frame, hovers, progress)
            found["next_ms"] = float(np.median([server.timed("next", {"frame": frame})[0] for _ in range(6)][1:]))
            found |= _events(server, frame, events, progress)
    return TeachBench(**found)


def _drawn(path: Path, encoder: str, device: str, progress: Progress) -> Store:
    """Return a store of a few drawn frames, of which those to train on are embedded."""
    drawn = SyntheticConfig(frames=4, shape=SHAPE, cells=120)
    how = {"train_frames": "0-1", "val_frames": "2", "test_frames": "3", "encoder": encoder}
    if encoder != "nano":
        weights = path.with_suffix(".safetensors")
        save_file(random_sam(encoder).state_dict(), weights)
        how["checkpoint"] = str(weights)
    new(path, NewConfig.of(dataset="synthetic", synthetic=drawn, **how))
    store = Store.open(path)
    embed(store, EmbedConfig(device=device, splits=("train",)), progress)
    return store


def _teach(store: Store, frame: str) -> None:
    """Take some cells of a frame as they are, as a person who was shown them does."""
    about: dict[str, Any] = {"frame": frame, "who": "bench", "when": now()}
    with LabelLog(store) as log:
        label = log.label(frame)
        cells = np.unique(label)[1 : TAUGHT + 1].tolist()
        masks = tuple(encode(label == cell, (0, 0), SHAPE) for cell in cells)
        log.append([LabelEvent(kind="replace", cells=tuple(cells), masks=masks, **about)])


def _accept(store: Store, frame: str, cells: int) -> None:
    """Put small discs in place of the cells of a frame."""
    rows, columns = np.mgrid[:DISC, :DISC] - (DISC - 1) / 2
    disc = rows**2 + columns**2 <= (DISC / 2) ** 2
    corners = [(x, y) for y in range(30, SHAPE[0] - 40, DISC + 2) for x in range(30, SHAPE[1] - 40, DISC + 2)][:cells]
    about: dict[str, Any] = {"frame": frame, "who": "bench", "when": now()}
    with LabelLog(store) as log:
        there = tuple(np.unique(log.label(frame))[1:].tolist())
        masks = tuple(encode(disc, corner, SHAPE) for corner in corners)
        numbers = tuple(range(10_000, 10_000 + len(masks)))
        log.append([LabelEvent(kind="erase", cells=there, **about)])
        log.append([LabelEvent(kind="add", cells=numbers, masks=masks, **about)])


class _Server:
    """A server of the page, as the page asks it: one question after the other, over one connection."""

    def __init__(self, address: str, process: BaseProcess) -> None:
        host, port, self._token = address.removeprefix("http://").rstrip("/").replace("/", ":").split(":")
        self._line = http.client.HTTPConnection(host, int(port))
        self._process = process
        self._number = 0

    def timed(self, name: str, body: dict[str, Any] | None = None) -> tuple[float, bytes]:
        """Return how long an answer took, ms, and the answer; RuntimeError where it is a refusal."""
        data = None if body is None else json.dumps({"page": "bench"} | body)
        began = time.perf_counter()
        how = "GET" if body is None else "POST"
        self._line.request(how, f"/{self._token}/{name}", data, {"content-type": "application/json"})
        reply = self._line.getresponse()
        found = reply.read()
        spent = 1000 * (time.perf_counter() - began)
        if reply.status != 200:
            raise RuntimeError(f"the page answered {reply.status}: {found.decode()}")
        return spent, found

    def hover(self, frame: str, place: Sequence[float]) -> tuple[float, bytes]:
        """Return how long a mask took, ms, and the answer."""
        self._number += 1
        return self.timed("hover", {"frame": frame, "number": self._number, "points": [[*place, 1]]})

    def learning(self) -> dict[str, Any]:
        """Return what the page shows of the fine-tuning."""
        found: dict[str, Any] = json.loads(self.timed("state")[1])["learning"]
        return found

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

    def memory(self) -> float:
        """Return the memory of the server, MiB."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 2**20)


@contextlib.contextmanager
def _served(path: Path, device: str) -> Iterator[_Server]:
    """Serve the page in a process of its own."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, path, device))
    process.start()
    try:
        server = _Server(receiver.recv(), process)
        with contextlib.closing(server):
            yield server
    finally:
        process.terminate()
        process.join()


def _serve(sender: Connection, path: Path, device: str) -> None:
    teach(Store.open(path), TeachConfig(device=device, every=1_000_000), port=0, started=sender.send)


def _places(count: int) -> list[list[float]]:
    """Return places of a frame, (x, y) px; the same ones whenever as many are asked for."""
    found: list[list[float]] = (
        np.random.default_rng(0).uniform((20, 20), (SHAPE[1] - 20, SHAPE[0] - 20), (count, 2)).tolist()
    )
    return found


def _percentiles(spent: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(spent, (50, 95)).tolist()
    return low, high


def _hovers(server: _Server, frame: str, count: int, progress: Progress) -> dict[str, Any]:
    server.timed(f"cells?frame={frame}")
    first, _ = server.hover(frame, (20, 20))
    found = [server.hover(frame, place) for place in progress(_places(count), total=count, what="hovers")]
    low, high = _percentiles([spent for spent, _ in found])
    most = max(len(answer) for _, answer in found)
    return {"first_hover_ms": first, "hover_p50_ms": low, "hover_p95_ms": high, "hover_most_bytes": most}


def _beside(server: _Server, frame: str, count: int, progress: Progress) -> dict[str, Any]:
    """Hover while a fine-tuning runs; what was answered after its end does not count."""
    learning = json.loads(server.timed("retune", {})[1])["learning"]
    if not learning["running"]:
        raise RuntimeError(learning["told"])
    spent: list[float] = []
    for number, place in enumerate(progress(_places(count), total=count, what="hovers beside a fine-tuning"), 1):
        spent.append(server.hover(frame, place)[0])
        if number % LOOK == 0 and not server.learning()["running"]:
            del spent[-LOOK:]
            break
    low, high = _percentiles(spent) if spent else (None, None)
    return {"beside_hovers": len(spent), "beside_p50_ms": low, "beside_p95_ms": high}


def _crowded(server: _Server, frame: str, count: int, progress: Progress) -> dict[str, Any]:
    opened, answer = server.timed(f"cells?frame={frame}")
    server.hover(frame, (20, 20))
    places = progress(_places(count), total=count, what="hovers in the crowded frame")
    low, high = _percentiles([server.hover(frame, place)[0] for place in places])
    about = {"crowded_open_ms": opened, "crowded_open_bytes": len(answer)}
    return {"crowded_p50_ms": low, "crowded_p95_ms": high} | about


def _events(server: _Server, frame: str, count: int, progress: Progress) -> dict[str, Any]:
    """Erase a cell and take that back, again and again."""
    found = json.loads(server.timed(f"cells?frame={frame}")[1])
    version, cell = found["version"], found["cells"][0]["cell"]
    before, spent = server.memory(), []
    for number in progress(range(count), total=count, what="edits"):
        erase = {"frame": frame, "version": version, "kind": "erase", "cells": [cell]}
        took, answer = server.timed("undo", {}) if number % 2 else server.timed("edit", erase)
        version = json.loads(answer)["version"]
        if not number % 2:
            spent.append(took)
    low, high = _percentiles(spent)
    after = server.memory()
    return {"saved_p50_ms": low, "saved_p95_ms": high, "memory_before_mib": before, "memory_after_mib": after}
