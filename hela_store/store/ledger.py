"""Record which views are embedded: a view counts only through an entry that is written after its chunk is durable.

``ledger/<encoder key>/<n>.jsonl`` holds one segment per committed group of views, one line a view; segments are written
whole (temporary file, sync, rename) and never changed, but 1024 of them become one. A later segment's word on a view
replaces an earlier one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from hela_store.base.files import fsync_path, write_atomic
from hela_store.base.sums import array_sum
from hela_store.errors import StoreError

DIGITS = 8
MERGED = 1024
"""So many segments become one."""
AT_ONCE = 64
"""Segments that are read together."""
EMPTY = b"\n"
"""A segment without entries: repair leaves one where a segment was damaged or lost, so that no number is missing."""
SCHEMA = pa.schema([("view", pa.string()), ("row", pa.int64()), ("sha256", pa.string()), ("xxh3", pa.string())])
REQUIRED = ("view", "row", "sha256")


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
    xxh3 : str or None
        :func:`hela_store.base.sums.array_sum` of it, which is compared whenever it is read; None in entries that were
        written before there were such sums.
    """

    view: str
    row: int
    sha256: str
    xxh3: str | None = None

    @classmethod
    def of(cls, view: str, row: int, *arrays: npt.NDArray[Any]) -> Self:
        """Return the entry of a view of which these arrays are stored."""
        return cls(view=view, row=row, sha256=view_digest(view, *arrays), xxh3=array_sum(view, *arrays))


def view_digest(view: str, *arrays: npt.NDArray[Any]) -> str:
    """Return the sha256, hex, over a view's id (UTF-8) and the decoded bytes of arrays (C order, little-endian).

    The id is part of it, so that two chunks that were swapped are found.
    """
    total = hashlib.sha256(view.encode())
    for array in arrays:
        total.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).view(np.uint8).data)
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
        self._seen: list[tuple[str, int, int]] = []
        self._table = SCHEMA.empty_table()
        self._written: tuple[int, int] | None = None

    def commit(self, entries: Iterable[Entry]) -> None:
        """Write one segment durably. Whoever calls holds the store's embed lock.

        Every 1024th segment says again what the 1023 before it say, and those are removed when the next one does, so
        that a ledger stays a few files and nobody who is reading misses one.

        Raises
        ------
        StoreError
            No space, no permission; a segment that is taken up is damaged.
        """
        data = segment_text(entries)
        if not data:
            return
        number = self._next()
        earlier = self._segments() if number % MERGED == MERGED - 1 else []
        data = _bytes([Path(file.path) for n, file in earlier if n // MERGED == number // MERGED]) + data
        write_atomic(self._path(number), data)
        if number == 0:
            fsync_path(self.path.parent)
            fsync_path(self.path.parent.parent)
        for n, file in earlier:
            if n // MERGED < number // MERGED and n % MERGED < MERGED - 1:
                Path(file.path).unlink()
        self._written = number, self.path.stat().st_mtime_ns

    def entries(self, skip: Collection[Path] = ()) -> dict[str, Entry]:
        """Return every committed view, by its id; without the segments in ``skip``.

        Raises
        ------
        StoreError
            A segment is damaged.
        """
        table = self.table(skip)
        columns = (table[name].to_pylist() for name in SCHEMA.names)
        return {row[0]: Entry(**dict(zip(SCHEMA.names, row, strict=True))) for row in zip(*columns, strict=True)}

    def rows(self) -> dict[str, int]:
        """Return the row of every committed view, by its id; raises as :meth:`entries`."""
        table = self.table()
        return dict(zip(table["view"].to_pylist(), table["row"].to_pylist(), strict=True))

    def row(self, view: str) -> int | None:
        """Return the row of a view, None where it is not committed; for one view, of many ask :meth:`rows`.

        Raises as :meth:`entries`.
        """
        row = _row_of(self._table, view)
        return _row_of(self.table(), view) if row is None else row

    def count(self) -> int:
        """Return how many views are committed; raises as :meth:`entries`."""
        return int(pc.count_distinct(self.table()["row"]).as_py())

    def table(self, skip: Collection[Path] = ()) -> pa.Table:
        """Return all entries in the order they were written; of what an earlier call read only what is new is read.

        Also those that a later one replaces. Raises as :meth:`entries`, and where a segment is lost, unless some are
        skipped.
        """
        there = {}
        segments = self._segments()
        lost = [] if skip else _lost([number for number, _ in segments])
        if lost:
            way_out = "`hela-store verify --repair` encodes its views again"
            raise StoreError(f"ledger segment {self._path(lost[0])} is lost, later ones are there; {way_out}")
        for _, file in segments:
            if Path(file.path) not in skip:
                status = file.stat()
                there[file.name, status.st_mtime_ns, status.st_size] = Path(file.path)
        if list(there)[: len(self._seen)] != self._seen:
            self._seen, self._table = [], SCHEMA.empty_table()
        new = list(there.values())[len(self._seen) :]
        if new:
            self._table = pa.concat_tables([self._table, *_parse_all(new)])
            self._seen = list(there)
        return self._table

    def damaged(self) -> list[Path]:
        """Return the segments that cannot be read, and those that are lost."""
        segments = self._segments()
        unreadable = [Path(file.path) for _, file in segments if _unreadable(Path(file.path))]
        return sorted([*unreadable, *map(self._path, _lost([number for number, _ in segments]))])

    def clear(self, segment: Path) -> None:
        """Put a segment without entries in place of one that is damaged or lost; only repair does this."""
        write_atomic(segment, EMPTY)

    def history(self, skip: Collection[Path] = ()) -> dict[str, set[str]]:
        """Return every sum that was ever committed for each view; without the segments in ``skip``."""
        found: dict[str, set[str]] = {}
        paths = [Path(file.path) for _, file in self._segments() if Path(file.path) not in skip]
        table = pa.concat_tables([SCHEMA.empty_table(), *_parse_all(paths)])
        for view, sha256 in zip(table["view"].to_pylist(), table["sha256"].to_pylist(), strict=True):
            found.setdefault(view, set()).add(sha256)
        return found

    def forget(self, views: Collection[str]) -> None:
        """Take entries out again, durably; only repair does this, for entries of views that never were."""
        for _, file in self._segments():
            path = Path(file.path)
            entries = [Entry(**line) for line in _parse([path]).to_pylist()]
            kept = [entry for entry in entries if entry.view not in views]
            if len(kept) < len(entries):
                write_atomic(path, segment_text(kept) or EMPTY)

    def _path(self, number: int) -> Path:
        return self.path / f"{number:0{DIGITS}d}.jsonl"

    def _next(self) -> int:
        """Return the number of the segment after the last one; lists the folder only where another process wrote."""
        if self._written is not None:
            number, changed = self._written
            # a segment that was written within one tick of the file system's clock is found by its name
            if self.path.stat().st_mtime_ns == changed and not self._path(number + 1).exists():
                return number + 1
        names = os.listdir(self.path) if self.path.is_dir() else []
        return max((number for number in map(_number, names) if number is not None), default=-1) + 1

    def _segments(self) -> list[tuple[int, os.DirEntry[str]]]:
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as files:
            numbered = [(_number(file.name), file) for file in files]
        return sorted(((n, file) for n, file in numbered if n is not None), key=lambda segment: segment[0])


def _number(name: str) -> int | None:
    """Return the number of a segment by the name of its file; None of other files."""
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "jsonl" and stem.isdecimal() else None


def _lost(numbers: Sequence[int]) -> list[int]:
    """Return which segments are not there though later ones are, of all whose numbers are given in rising order.

    Of those that a later segment says again only that one has to be there.
    """
    if not numbers:
        return []
    there, last = set(numbers), numbers[-1]
    merged = range(MERGED - 1, last + 1, MERGED)
    after = range(merged[-1] + 1 if merged else 0, last)
    return [number for number in (*merged, *after) if number not in there]


def segment_text(entries: Iterable[Entry]) -> bytes:
    """Return what a segment with these entries holds."""
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode()


def _bytes(segments: Sequence[Path]) -> bytes:
    parts = []
    for segment in segments:
        part = segment.read_bytes()
        if not part.endswith(b"\n"):
            raise _damaged(segment, "it is cut short")
        parts.append(part)
    return b"".join(parts)


def _parse_all(segments: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the entries of segments, some at a time: the text of a million entries is larger than their table."""
    for first in range(0, len(segments), AT_ONCE):
        yield _parse(segments[first : first + AT_ONCE])


def _parse(segments: Sequence[Path]) -> pa.Table:
    """Return the entries of segments, all at once where none is damaged, else the error names the first that is."""
    options = pj.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="error")
    try:
        data = _bytes(segments)
        if not data.strip():
            return SCHEMA.empty_table()
        table = pj.read_json(pa.BufferReader(data), parse_options=options).select(SCHEMA.names)
        if any(table[name].null_count for name in REQUIRED):
            raise ValueError("a value is missing")
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        if len(segments) == 1:
            raise _damaged(segments[0], str(error).partition("\n")[0]) from None
        return pa.concat_tables([_parse([segment]) for segment in segments])
    return table


def _row_of(table: pa.Table, view: str) -> int | None:
    rows = table["row"].filter(pc.equal(table["view"], view))
    return int(rows[-1].as_py()) if len(rows) else None


def _damaged(segment: Path, why: str) -> StoreError:
    way_out = "`hela-store verify --repair` encodes its views again"
    return StoreError(f"ledger segment {segment} is damaged ({why}); {way_out}")


def _unreadable(segment: Path) -> bool:
    try:
        _parse([segment])
    except StoreError:
        return True
    return False
