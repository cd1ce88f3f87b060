"""The page of `hela-store teach` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import numpy as np
import numpy.typing as npt

from hela_store.images.labels import field_of_interest

COMMAND = Path(sys.executable).with_name("hela-store")


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the page; yields its address and the process, which is killed at the end."""
    with forked.Popen(
        [COMMAND, "teach", *arguments, "--port", "0", "--who", "ann"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", line), line
            yield line, process
        finally:
            process.kill()


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Return the status and the answer of a request; JSON where it is that."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=120) as reply:
            status, text, kind = reply.status, reply.read(), reply.headers["content-type"]
            assert "default-src 'none'" in reply.headers["content-security-policy"]
    except urllib.error.HTTPError as error:
        with error:
            status, text, kind = error.code, error.read(), error.headers["content-type"]
    return status, json.loads(text) if "json" in kind else text


def splittable(label: npt.NDArray[np.int32], band: int = 25) -> list[int]:
    """Return the cells of which both halves, left and right of the middle, have a pixel within the outer band."""
    inner = field_of_interest((label.shape[0], label.shape[1]), band)
    found = []
    for cell in np.unique(label[label > 0]).tolist():
        columns = np.nonzero((label == cell) & inner)[1]
        x = np.nonzero(label == cell)[1].mean() + 0.5
        if len(columns) and columns.min() + 0.5 < x - 1 and columns.max() + 0.5 > x + 1:
            found.append(cell)
    return found
