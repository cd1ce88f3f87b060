"""Copies of what was read from a bucket, in a folder of bounded size beside the recipe; delete it at any time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from hela_store.base.files import digest, explain_os_errors

SUM_BYTES = 32
KEPT = 0.9
"""Of the size that is allowed this share stays when the longest unused copies go."""


class ReadCache:
    """Copies by name, each with its sha256 before it, so that one that was cut short counts as none.

    Parameters
    ----------
    folder : Path
        Made by the first copy.
    limit : int
        Bytes all copies may take; several processes that share a folder may each exceed it by one copy. With 0 none is
        read or made, but those that other processes keep are still forgotten.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._size: int | None = None

    def get(self, name: str) -> bytes | None:
        """Return the copy of an object, None where there is none."""
        if not self._limit:
            return None
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        body = data[SUM_BYTES:]
        return body if hashlib.sha256(body).digest() == data[:SUM_BYTES] else None

    def put(self, name: str, body: bytes) -> None:
        """Keep a copy, and let the longest unused ones go where there are too many bytes."""
        if len(body) + SUM_BYTES > self._limit:
            return
        with explain_os_errors(f"keeping a copy in {self._folder}"):
            self._folder.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).digest() + body)
            os.replace(temporary, self._path(name))
            self._size = (self._measure() if self._size is None else self._size) + len(body) + SUM_BYTES
            if self._size > self._limit:
                self._evict()

    def forget(self, name: str) -> None:
        """Remove the copy of an object that was written, or whose copy is wrong."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / digest(name)[:32]

    def _measure(self) -> int:
        return sum(file.stat().st_size for file in self._folder.iterdir())

    def _evict(self) -> None:
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process let it go
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        size = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if size <= KEPT * self._limit:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
        self._size = size
