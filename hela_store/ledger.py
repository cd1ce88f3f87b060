"""What is done: a view counts as embedded only through an entry here, written after its chunk is durable.

``ledger/<encoder key>/<n>.jsonl`` holds one segment per committed group of views, one line a view; segments are written
whole (temporary file, sync, rename) and never changed. A later segment's word on a view replaces an earlier one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import StoreError
from .files import fsync_path, write_atomic

DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One committed view.

    Attributes
    ----------
    view : str
        View id.
    row : int
        Its row in the embeddings array.
    sha256 : str
        :func:`view_digest` of what is stored there.
    """

    view: str
    row: int
    sha256: str


def view_digest(view: str, array: npt.NDArray[np.floating]) -> str:
    """Return the sha256, hex, over a view's id (UTF-8) and its embedding's decoded bytes (C order, little-endian).

    The id is part of it, so that two chunks that were swapped are found.
    """
    total = hashlib.sha256(view.encode())
    total.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


class Ledger:
    """The committed views of one encoder key.

    Parameters
    ----------
    path : Path
        ``<store>/ledger/<encoder key>``; made by the first commit.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._parsed: dict[tuple[str, int, int], list[Entry]] = {}

    def commit(self, entries: Iterable[Entry]) -> None:
        """Write one segment durably. Whoever calls holds the store's embed lock.

        Raises
        ------
        StoreError
            No space, no permission.
        """
        data = _lines(entries)
        if not data:
            return
        segments = self._segments()
        number = segments[-1][0] + 1 if segments else 0
        write_atomic(self.path / f"{number:0{DIGITS}d}.jsonl", data)
        if not segments:
            fsync_path(self.path.parent)
            fsync_path(self.path.parent.parent)

    def entries(self, skip: Collection[Path] = ()) -> dict[str, Entry]:
        """Return every committed view, by its id; without the segments in ``skip``.

        Raises
        ------
        StoreError
            A segment is damaged.
        """
        found: dict[str, Entry] = {}
        seen = {}
        for _, file in self._segments():
            if Path(file.path) in skip:
                continue
            status = file.stat()
            identity = (file.name, status.st_mtime_ns, status.st_size)
            seen[identity] = self._parsed.get(identity) or _parse(Path(file.path))
            found.update((entry.view, entry) for entry in seen[identity])
        self._parsed = seen
        return found

    def damaged(self) -> list[Path]:
        """Return the segments that cannot be read."""
        return [Path(file.path) for _, file in self._segments() if _unreadable(Path(file.path))]

    def history(self, skip: Collection[Path] = ()) -> dict[str, set[str]]:
        """Return every sum that was ever committed for each view; without the segments in ``skip``."""
        found: dict[str, set[str]] = {}
        for _, file in self._segments():
            if Path(file.path) not in skip:
                for entry in _parse(Path(file.path)):
                    found.setdefault(entry.view, set()).add(entry.sha256)
        return found

    def forget(self, views: Collection[str]) -> None:
        """Take entries out again, durably; only repair does this, for entries of views that never were."""
        for _, file in self._segments():
            path = Path(file.path)
            kept = [entry for entry in _parse(path) if entry.view not in views]
            if not kept:
                path.unlink()
                fsync_path(self.path)
            elif len(kept) < len(_parse(path)):
                write_atomic(path, _lines(kept))

    def _segments(self) -> list[tuple[int, os.DirEntry[str]]]:
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as files:
            named = [(file.name.partition("."), file) for file in files]
        return sorted(
            ((int(stem), file) for (stem, _, suffix), file in named if suffix == "jsonl" and stem.isdecimal()),
            key=lambda numbered: numbered[0],
        )


def _lines(entries: Iterable[Entry]) -> bytes:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode()


def _parse(segment: Path) -> list[Entry]:
    try:
        text = segment.read_text(encoding="utf-8")
        entries = [Entry(**json.loads(line)) for line in text.splitlines()]
        if not entries or not text.endswith("\n"):
            raise ValueError("it is cut short")
        if any(list(map(type, asdict(entry).values())) != [str, int, str] for entry in entries):
            raise ValueError("a value is of another type")
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"ledger segment {segment} is damaged ({error}); `hela-store verify --repair` encodes its views again"
        ) from None
    return entries


def _unreadable(segment: Path) -> bool:
    try:
        _parse(segment)
    except StoreError:
        return True
    return False
