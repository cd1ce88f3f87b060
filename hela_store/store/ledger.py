"""What is done: a view counts as embedded only through an entry here, written after its chunk is durable.

``ledger/<encoder key>/<n>.jsonl`` holds one segment per committed group of views, one line a view; segments are written
whole (temporary file, sync, rename) and never changed, but 1024 of them become one. A later segment's word on a view
replaces an earlier one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from hela_store.base.files import fsync_path, write_atomic
from hela_store.errors import StoreError

DIGITS = 8
MERGED = 1024
"""So many segments become one."""
SCHEMA = pa.schema([("view", pa.string()), ("row", pa.int64()), ("sha256", pa.string())])


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
        self._seen: list[tuple[str, int, int]] = []
        self._table = SCHEMA.empty_table()

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
        write_atomic(self.path / f"{number:0{DIGITS}d}.jsonl", data)
        if number == 0:
            fsync_path(self.path.parent)
            fsync_path(self.path.parent.parent)
        for n, file in earlier:
            if n // MERGED < number // MERGED and n % MERGED < MERGED - 1:
                Path(file.path).unlink()

    def entries(self, skip: Collection[Path] = ()) -> dict[str, Entry]:
        """Return every committed view, by its id; without the segments in ``skip``.

        Raises
        ------
        StoreError
            A segment is damaged.
        """
        table = self.table(skip)
        columns = (table[name].to_pylist() for name in SCHEMA.names)
        return {view: Entry(view=view, row=row, sha256=sha256) for view, row, sha256 in zip(*columns, strict=True)}

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

        Also those that a later one replaces. Raises as :meth:`entries`.
        """
        there = {}
        for _, file in self._segments():
            if Path(file.path) not in skip:
                status = file.stat()
                there[file.name, status.st_mtime_ns, status.st_size] = Path(file.path)
        if list(there)[: len(self._seen)] != self._seen:
            self._seen, self._table = [], SCHEMA.empty_table()
        new = list(there.values())[len(self._seen) :]
        if new:
            self._table = pa.concat_tables([self._table, _parse(new)])
            self._seen = list(there)
        return self._table

    def damaged(self) -> list[Path]:
        """Return the segments that cannot be read."""
        return [Path(file.path) for _, file in self._segments() if _unreadable(Path(file.path))]

    def history(self, skip: Collection[Path] = ()) -> dict[str, set[str]]:
        """Return every sum that was ever committed for each view; without the segments in ``skip``."""
        found: dict[str, set[str]] = {}
        paths = [Path(file.path) for _, file in self._segments() if Path(file.path) not in skip]
        table = _parse(paths) if paths else SCHEMA.empty_table()
        for view, sha256 in zip(table["view"].to_pylist(), table["sha256"].to_pylist(), strict=True):
            found.setdefault(view, set()).add(sha256)
        return found

    def forget(self, views: Collection[str]) -> None:
        """Take entries out again, durably; only repair does this, for entries of views that never were."""
        for _, file in self._segments():
            path = Path(file.path)
            entries = [Entry(**line) for line in _parse([path]).to_pylist()]
            kept = [entry for entry in entries if entry.view not in views]
            if not kept:
                path.unlink()
                fsync_path(self.path)
            elif len(kept) < len(entries):
                write_atomic(path, segment_text(kept))

    def _next(self) -> int:
        """Return the number of the segment after the last one."""
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


def _parse(segments: Sequence[Path]) -> pa.Table:
    """Return the entries of segments, all at once where none is damaged, else the error names the first that is."""
    options = pj.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="error")
    try:
        table = pj.read_json(pa.BufferReader(_bytes(segments)), parse_options=options).select(SCHEMA.names)
        if any(column.null_count for column in table.columns):
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
