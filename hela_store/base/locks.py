"""One writer at a time, and whoever is refused is told who it is.

An operating system lock, so that a killed process leaves none behind; beside it a note of the holder's process id and
host for the message.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

from hela_store.errors import StoreError

from .files import explain_os_errors
from .names import refuse_link

LOCK_FILE = ".embed.lock"
HOLDER_FILE = ".embed.holder.json"


@contextlib.contextmanager
def embed_lock(store_path: Path) -> Iterator[None]:
    """Hold the right to write embeddings into a store.

    Raises
    ------
    StoreError
        Another process holds it (its id and host are named); no permission; a symbolic link in its place.
    """
    for name in (LOCK_FILE, HOLDER_FILE):
        refuse_link(store_path / name)
    lock = filelock.FileLock(store_path / LOCK_FILE, timeout=0)
    try:
        with explain_os_errors(f"locking {store_path}"):
            lock.acquire()
    except filelock.Timeout:
        raise StoreError(f"{store_path} is being embedded {_holder(store_path)}; wait for it, or stop it") from None
    try:
        since = datetime.now(UTC).isoformat("T", "seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with explain_os_errors(f"locking {store_path}"):
            (store_path / HOLDER_FILE).write_text(json.dumps(holder))
        yield
    finally:
        (store_path / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def claim(folder: Path, name: str, wait: bool) -> Iterator[bool]:
    """Claim a piece of work among processes; yields whether it is ours, False only where we do not ``wait`` for it.

    The lock's file goes when the work is over: whoever comes later has to look first whether it is done.
    """
    refuse_link(folder / f".{name}.lock")
    lock = filelock.FileLock(folder / f".{name}.lock", timeout=-1 if wait else 0)
    ours = True
    with explain_os_errors(f"locking {folder}"):
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            ours = False
    try:
        yield ours
    finally:
        if ours:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _holder(store_path: Path) -> str:
    try:
        holder = json.loads((store_path / HOLDER_FILE).read_text())
        return f"by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by another process that has only just started"
