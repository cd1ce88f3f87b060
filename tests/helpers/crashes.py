"""``embed`` and ``verify`` in a process that fails where it is told to, in the manner of SQLite's tests.

``python crashes.py REQUEST`` takes JSON: ``{"job": "new" | "embed" | "verify", "store": path, "mode": ..., "at": n}``. Its exit status
says how the job ended. Nothing in the product knows of this: the process counts, through Python's audit events and
``os.fsync``, the calls that change files under the store, and at the n-th

- ``kill``: is killed by SIGKILL before it;
- ``torn``: a file that is being synced loses its second half, as after a power cut, then SIGKILL;
- ``full``: it and all that follow fail with ENOSPC;
- ``time``: is killed ``at`` seconds after its start, whatever it is doing.

``"ahead": true`` treats the CPU as a GPU is treated: several batches are being written at once.

The encoder is a nano of one narrow block with random weights, so that a view takes a tenth of a second.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hela_store.embedding import pipeline
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import HelaError
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.sam import decoder, nano
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

DONE, FAULTS, REFUSED = 0, 2, 3
"""Exit statuses; Python ends with 1 where the test has a bug."""


def narrow() -> None:
    nano.WIDTH, nano.DEPTH, nano.HEADS, nano.STEM = 8, 1, 1, (4, 4)
    decoder.TRANSFORMER_MLP["nano"] = 16


class Failing:
    """Counts the calls that change files under a folder, and fails at one of them."""

    def __init__(self, folder: Path, mode: str, at: float) -> None:
        self.folder, self.mode, self.at = f"{folder}/", mode, at
        self.count, self.on = 0, True
        self.lock = threading.Lock()
        self.sync = os.fsync
        os.fsync = self.fsync  # type: ignore[assignment]
        sys.addaudithook(self.audit)
        if mode == "time":
            threading.Thread(target=self.wait, daemon=True).start()

    def wait(self) -> None:
        time.sleep(self.at)
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.startswith(self.folder):
            self.point(path if os.path.isfile(path) else None, room=True)
        self.sync(handle)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if isinstance(path, str | os.PathLike) and str(path).startswith(self.folder) and writes:
                self.point(None, room=True)
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.link", "os.truncate") and str(arguments[0]).startswith(
            self.folder
        ):
            self.point(None, room=event == "os.mkdir")

    def point(self, synced: str | None, room: bool) -> None:
        with self.lock:
            if not self.on:
                return
            self.count += 1
            due = self.count >= self.at
            if self.mode == "torn" and due and synced is not None:
                self.on = False
                os.truncate(synced, os.path.getsize(synced) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "kill" and due:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "full" and due and room:
                raise OSError(errno.ENOSPC, "No space left on device")


def make(path: Path, frames: int, shard: int) -> None:
    torch.manual_seed(0)
    weights = path.with_name("nano.safetensors")
    save_file({name: value.contiguous() for name, value in nano.build_nano().state_dict().items()}, weights)
    drawn = SyntheticConfig(frames=frames, shape=(64, 64), cells=3)
    # all of them count, or the labels would be empty
    blocks = {"train_frames": "0-0", "val_frames": "1-1", "test_frames": "2-2", "field_of_interest": 0}
    new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, checkpoint=str(weights), **blocks))
    if shard:
        recipe = path / "store.toml"
        recipe.write_text(recipe.read_text().replace("[arrays]\n", f"[arrays]\nshard = {shard}\n"))


def work(request: dict[str, Any]) -> int:
    """Do a job; return its exit status."""
    path = Path(request["store"])
    if request.get("ahead"):
        pipeline.AHEAD = ("cpu",)
    failing = Failing(path, request.get("mode", ""), request.get("at", 0))
    try:
        if request["job"] == "new":
            make(path, request["frames"], request.get("shard", 0))
        elif request["job"] == "embed":
            embed(Store.open(path), EmbedConfig(device="cpu"))
        else:
            config = VerifyConfig(device="cpu", repair=request["repair"], deep=request.get("deep", False))
            report = verify(Store.open(path), config)
            path.with_suffix(".json").write_text(json.dumps(report.to_json()))
            return DONE if report.whole else FAULTS
    except HelaError as error:
        path.with_suffix(".error").write_text(str(error))
        return REFUSED
    finally:
        failing.on = False
        path.with_suffix(".points").write_text(str(failing.count))
    return DONE


if __name__ == "__main__":
    narrow()
    torch.set_num_threads(1)
    sys.exit(work(json.loads(sys.argv[1])))
