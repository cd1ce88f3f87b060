"""Numbered files of JSON lines, each written whole, with the sum of its lines and of the file before it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hela_store.errors import RESTORE_LABELS, StoreError

from .files import fsync_path, write_atomic
from .plain import plain
from .text import first_line

FORMAT = 1
DIGITS = 8
LONGEST = 1 << 30
"""Most bytes of one segment that is read."""
LABELS = "labels"
"""Folder of a store in which the log of its labels lies."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One file: its lines as they were written, and its sum, which the next one holds."""

    lines: tuple[dict[str, Any], ...]
    sum: str


class Segments:
    """A chain of segments, numbered from 1 without a gap.

    The first line of a file is its head: ``format``, ``version`` (its number), ``before`` (the sum of the file before
    it, empty for the first) and ``sum``: the sha256, hex, of ``before``, ``:``, the number, ``:`` and all bytes after
    the head. A file that was damaged, swapped or lost is found.

    Parameters
    ----------
    folder : Path
        Made by the first segment.
    way_out : str
        Ends messages about damage.
    """

    def __init__(self, folder: Path, way_out: str) -> None:
        self.folder = folder
        self._way_out = way_out

    @property
    def latest(self) -> int:
        """The number of the last segment; 0 where there is none. Raises StoreError where one before it is missing."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return 0
        numbers = sorted(int(name[:DIGITS]) for name in names if is_segment(name))
        for expected, number in enumerate(numbers, 1):
            if number != expected:
                lost = self.path(expected)
                raise StoreError(f"{lost} is missing, though later versions are there; {self._way_out}")
        return len(numbers)

    def path(self, number: int) -> Path:
        """Return where a segment is."""
        return self.folder / f"{number:0{DIGITS}d}.jsonl"

    def write(self, number: int, before: str, lines: Sequence[Mapping[str, Any]]) -> str:
        """Write a segment durably, whole or not at all; return its sum. StoreError: no space or no permission."""
        body = "".join(json.dumps(plain(line)) + "\n" for line in lines).encode()
        total = _sum(before, number, body)
        head = {"format": FORMAT, "version": number, "before": before, "sum": total}
        is_first = not self.folder.is_dir()
        write_atomic(self.path(number), (json.dumps(head) + "\n").encode() + body)
        if is_first:
            fsync_path(self.folder.parent)
        return total

    def chain(self, upto: int, *, after: int = 0, before: str = "") -> Iterator[Segment]:
        """Yield the segments up to a number, each compared with its sum and with that of the one before it.

        Parameters
        ----------
        upto : int
            At most :attr:`latest`.
        after : int
            Number of the last segment that was read already; 0 where none was.
        before : str
            Its sum.

        Raises
        ------
        StoreError
            One is missing, damaged, not the one that was written, or was written by a newer version.
        """
        for number in range(after + 1, upto + 1):
            segment = self._read(number, before)
            before = segment.sum
            yield segment

    def _read(self, number: int, before: str) -> Segment:
        path = self.path(number)
        try:
            if path.is_symlink() or path.stat().st_size > LONGEST:
                raise ValueError("it is a symbolic link or too long")
            first, _, body = path.read_bytes().partition(b"\n")
            head = json.loads(first)
            newer = head["format"] > FORMAT
            if not newer:
                total = _sum(before, number, body)
                if head != {"format": FORMAT, "version": number, "before": before, "sum": total}:
                    raise ValueError("its lines, or those of an earlier version, are not those that were written")
                if not body:
                    raise ValueError("it holds no line")
                return Segment(lines=tuple(json.loads(line) for line in body.splitlines()), sum=total)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({first_line(error)}); {self._way_out}") from None
        raise StoreError(f"{path} has format {head['format']}, expected at most {FORMAT}; upgrade hela-store")


def label_segments(store: Path) -> Segments:
    """Return the log of the labels of the store in a folder."""
    return Segments(store / LABELS, RESTORE_LABELS)


def is_segment(name: str) -> bool:
    """Return whether a file of this name is a segment."""
    stem, _, suffix = name.partition(".")
    return suffix == "jsonl" and len(stem) == DIGITS and stem.isdecimal()


def _sum(before: str, number: int, body: bytes) -> str:
    return hashlib.sha256(f"{before}:{number}:".encode() + body).hexdigest()
