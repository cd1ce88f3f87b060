"""Embeddings that are committed, but in no shard yet: files in ``staged/``, one a view."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .storage import Folder


class Staged:
    """Chunks of committed embeddings that are in no shard yet, by encoder key and row.

    Parameters
    ----------
    path : Path
        ``<store>/staged``; made by the first chunk.
    """

    def __init__(self, path: Path) -> None:
        self._folder = Folder(path)

    def read(self, key: str, row: int) -> bytes | None:
        """Return a chunk, None where it is not staged."""
        return self._folder.read(f"{key}/{row}")

    def size(self, key: str, row: int) -> int | None:
        """Return the length of a chunk, None where it is not staged."""
        return self._folder.size(f"{key}/{row}")

    def write(self, key: str, row: int, data: bytes) -> None:
        """Write a chunk; it is durable on return."""
        is_first = not (self._folder.path / key).is_dir()
        self._folder.write(f"{key}/{row}", data)
        if is_first:
            self._folder.created(f"{key}/{row}")

    def rows(self, key: str) -> list[int]:
        """Return the rows that are staged, sorted."""
        return sorted(int(name) for name in self._folder.below(key) if name.isdecimal())

    def remove(self, key: str, rows: Iterable[int]) -> None:
        """Remove chunks."""
        for row in rows:
            self._folder.remove(f"{key}/{row}")
