"""One writer at a time, and whoever is refused is told who it is.

An operating system lock, so that a killed process leaves none behind; beside it a note of the holder's process id and
host for the message.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

from hela_store.errors import StoreError

from .files import explain_os_errors, fsync_path
from .names import refuse_link
from .progress import Progress, silent

LOCK_FILE = ".embed.lock"
HOLDER_FILE = ".embed.holder.json"


@contextlib.contextmanager
def embed_lock(store_path: Path) -> Iterator[None]:
    """Hold the right to write embeddings into a store.

    What a process that was killed while it held it left half-written in the arrays is removed first.

    Raises
    ------
    StoreError
        Another process holds it (its id and host are named); no permission; a symbolic link in its place.
    """
    with _exclusive(store_path, LOCK_FILE, HOLDER_FILE, "{} is being embedded {}; wait for it, or stop it") as killed:
        if killed:
            clear_arrays(store_path)
        yield


def clear_arrays(store_path: Path) -> None:
    """Remove half-written chunks; whoever calls holds the embed lock. It looks at every file of the arrays."""
    with explain_os_errors(f"clearing leftovers in {store_path}"):
        for folder, _, names in os.walk(store_path / "arrays.zarr"):
            for name in names:
                if name.startswith(".") or name.endswith(".partial"):
                    (Path(folder) / name).unlink(missing_ok=True)


@contextlib.contextmanager
def labels_lock(store_path: Path) -> Iterator[None]:
    """Hold the right to write new versions of the labels of a store; raises as :func:`embed_lock`."""
    said = "the labels of {} are being changed {}; wait for it, or close it there"
    with _exclusive(store_path, ".labels.lock", ".labels.holder.json", said):
        yield


@contextlib.contextmanager
def _exclusive(store_path: Path, lock_file: str, holder_file: str, said: str) -> Iterator[bool]:
    """Hold a lock; yields whether the process that held it last was killed: it left its note."""
    for name in (lock_file, holder_file):
        refuse_link(store_path / name)
    lock = filelock.FileLock(store_path / lock_file, timeout=0)
    try:
        with explain_os_errors(f"locking {store_path}"):
            lock.acquire()
    except filelock.Timeout:
        raise StoreError(said.format(store_path, _holder(store_path / holder_file))) from None
    try:
        killed = (store_path / holder_file).exists()
        _say_who(store_path / holder_file)
        yield killed
    finally:
        (store_path / holder_file).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def claim(folder: Path, name: str, wait: bool, progress: Progress = silent) -> Iterator[bool]:
    """Claim a piece of work among processes; yields whether it is ours, False only where we do not ``wait`` for it.

    The lock's file goes when the work is over: whoever comes later has to look first whether it is done.

    Parameters
    ----------
    folder, name : where the lock lies, and what the work is called
    wait : whether to wait for another process that is at it
    progress : shows that, and for whom
    """
    refuse_link(folder / f".{name}.lock")
    lock, note = filelock.FileLock(folder / f".{name}.lock"), folder / f".{name}.holder.json"
    ours = True
    with explain_os_errors(f"locking {folder}"):
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            ours = wait
            if wait:
                deque(progress(_released(lock), total=1, what=f"wait for the same work, {_holder(note)}"), maxlen=0)
    try:
        if ours:
            _say_who(note)
        yield ours
    finally:
        if ours:
            note.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def clear_claims(folder: Path) -> None:
    """Remove the files of claims whose processes were killed."""
    for path in folder.glob(".*.holder.json"):
        lock = filelock.FileLock(path.with_name(path.name.replace(".holder.json", ".lock")))
        with contextlib.suppress(filelock.Timeout, OSError):
            lock.acquire(timeout=0)
            path.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _released(lock: filelock.BaseFileLock) -> Iterator[None]:
    lock.acquire(timeout=-1)
    yield


def _say_who(note: Path) -> None:
    since = datetime.now(UTC).isoformat("T", "seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with explain_os_errors(f"locking {note.parent}"):
        note.write_text(json.dumps(holder))
        fsync_path(note)
        fsync_path(note.parent)


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by another process that has only just started"
