"""`hela-store bench teach`: how long a person waits for the page of `hela-store teach`, over loopback, with nano.

The server is a process of its own on a drawn store. It is asked as the page asks it, one question after the other.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.images.rle import encode
from hela_store.labels.events import LabelEvent
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import now
from hela_store.store.store import Store
from hela_store.teaching.config import TeachConfig
from hela_store.teaching.server import teach
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

SHAPE = (700, 1100)
DISC = 12
"""Diameter of the accepted cells of the crowded frame, px."""


@dataclass(frozen=True, kw_only=True)
class TeachBench:
    """Milliseconds that the page waits, by what it asks.

    Attributes
    ----------
    device, hovers, cells, events : conditions; ``cells`` are accepted in the crowded frame
    first_hover_ms : the first one after a frame was opened
    hover_p50_ms, hover_p95_ms, hover_most_bytes : hover to outline
    crowded_p50_ms, crowded_p95_ms : the same in the crowded frame
    crowded_open_ms, crowded_open_bytes : its cells, once
    next_ms : median of the next cell
    saved_p50_ms, saved_p95_ms : from an edit to the answer that it is saved, in the crowded frame
    memory_before_mib, memory_after_mib : of the server, before and after the events
    """

    device: str
    hovers: int
    cells: int
    events: int
    first_hover_ms: float
    hover_p50_ms: float
    hover_p95_ms: float
    hover_most_bytes: int
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
    *, hovers: int = 200, cells: int = 2000, events: int = 1000, device: str = "auto", progress: Progress = silent
) -> TeachBench:
    """Time the page's questions.

    Parameters
    ----------
    hovers : how many masks are asked for in each frame
    cells : accepted cells of the crowded frame, at most 3000
    events : edits after which memory is weighed again
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    progress : shown part by part
    """
    with tempfile.TemporaryDirectory() as folder:
        store = _drawn(Path(folder) / "teach", device)
        empty, crowded, *_ = store.frame_records()
        _accept(store, crowded, cells)
        with _served(store.path, device) as (ask, memory):
            found: dict[str, Any] = {"device": device, "hovers": hovers, "cells": cells, "events": events}
            jobs: list[Callable[[], dict[str, Any]]] = [
                lambda: _hovers(ask, store, empty, hovers),
                lambda: _crowded(ask, store, crowded, hovers),
                lambda: {"next_ms": float(np.median([_timed(ask, "next", {"frame": empty})[0] for _ in range(6)][1:]))},
                lambda: _events(ask, crowded, events, memory),
            ]
            for job in progress(jobs, total=len(jobs), what="bench teach"):
                found |= job()
    return TeachBench(**found)


def _drawn(path: Path, device: str) -> Store:
    """Return an embedded store of a few drawn frames."""
    drawn = SyntheticConfig(frames=4, shape=SHAPE, cells=120)
    new(path, NewConfig.of(dataset="synthetic", synthetic=drawn, train_frames="0-1", val_frames="2", test_frames="3"))
    store = Store.open(path)
    embed(store, EmbedConfig(device=device))
    return store


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


@contextmanager
def _served(path: Path, device: str) -> Iterator[tuple[Callable[..., tuple[int, bytes]], Callable[[], float]]]:
    """Serve the page; yields what asks it, and what returns the memory of the server, MiB."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, path, device))
    process.start()
    try:
        host, port, token = receiver.recv().removeprefix("http://").rstrip("/").replace("/", ":").split(":")
        line = http.client.HTTPConnection(host, int(port))

        def ask(name: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
            data = None if body is None else json.dumps({"page": "bench"} | body)
            line.request(
                "GET" if body is None else "POST", f"/{token}/{name}", data, {"content-type": "application/json"}
            )
            reply = line.getresponse()
            return reply.status, reply.read()

        yield ask, lambda: float(psutil.Process(process.pid).memory_info().rss / 2**20)
    finally:
        process.terminate()
        process.join()


def _serve(sender: Connection, path: Path, device: str) -> None:
    teach(Store.open(path), TeachConfig(device=device, every=1_000_000), port=0, started=sender.send)


def _timed(ask: Callable[..., tuple[int, bytes]], name: str, body: dict[str, Any] | None = None) -> tuple[float, bytes]:
    began = time.perf_counter()
    status, found = ask(name, body)
    spent = 1000 * (time.perf_counter() - began)
    if status != 200:
        raise RuntimeError(f"the page answered {status}: {found.decode()}")
    return spent, found


def _points(store: Store, frame: str, count: int) -> list[dict[str, Any]]:
    """Return questions at places of a frame."""
    rng = np.random.default_rng(0)
    places = rng.uniform((20, 20), (SHAPE[1] - 20, SHAPE[0] - 20), (count, 2)).tolist()
    return [{"frame": frame, "number": n, "points": [[x, y, 1]]} for n, (x, y) in enumerate(places)]


def _hovers(ask: Any, store: Store, frame: str, count: int) -> dict[str, Any]:
    _timed(ask, f"cells?frame={frame}")
    found = [_timed(ask, "hover", question) for question in _points(store, frame, count + 1)]
    low, high = np.percentile([spent for spent, _ in found[1:]], (50, 95)).tolist()
    most = max(len(answer) for _, answer in found)
    return {"first_hover_ms": found[0][0], "hover_p50_ms": low, "hover_p95_ms": high, "hover_most_bytes": most}


def _crowded(ask: Any, store: Store, frame: str, count: int) -> dict[str, Any]:
    opened, answer = _timed(ask, f"cells?frame={frame}")
    questions = [question | {"number": question["number"] + count + 1} for question in _points(store, frame, count)]
    low, high = np.percentile([_timed(ask, "hover", question)[0] for question in questions], (50, 95)).tolist()
    places = {"crowded_open_ms": opened, "crowded_open_bytes": len(answer)}
    return {"crowded_p50_ms": low, "crowded_p95_ms": high} | places


def _events(ask: Any, frame: str, count: int, memory: Callable[[], float]) -> dict[str, Any]:
    """Erase a cell and take that back, again and again."""
    found = json.loads(_timed(ask, f"cells?frame={frame}")[1])
    version, cell = found["version"], found["cells"][0]["cell"]
    before, spent = memory(), []
    for number in range(count):
        erase = {"frame": frame, "version": version, "kind": "erase", "cells": [cell]}
        took, answer = _timed(ask, "undo", {}) if number % 2 else _timed(ask, "edit", erase)
        version = json.loads(answer)["version"]
        if not number % 2:
            spent.append(took)
    low, high = np.percentile(spent, (50, 95)).tolist()
    return {"saved_p50_ms": low, "saved_p95_ms": high, "memory_before_mib": before, "memory_after_mib": memory()}
