"""Shards of embeddings: how those that were committed come together.

A shard is written once for many views, but a view has to be safe as soon as it is committed. So an embedding is first
written into a file of its own in ``staged/``, and the ledger's entry follows. When all embeddings of a shard are there,
or when the job ends, the shard is written, and then these files are removed. Only the process that holds the store's
embed lock writes shards, so no two processes ever write the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hela_store.errors import StoreError

from .shard import pack, unpack
from .storage import Storage

if TYPE_CHECKING:
    from .arrays import Arrays
    from .ledger import Ledger


LATER = -1
"""Stands for a row that never comes: the shard is written when the job ends."""


class Gatherer:
    """Writes the shards of one encoder key. Whoever uses it holds the store's embed lock.

    Parameters
    ----------
    arrays : Arrays
        Hold this key's array.
    key : str
        Encoder key.
    ledger : Ledger
        Of that key.
    """

    def __init__(self, arrays: Arrays, key: str, ledger: Ledger) -> None:
        self._arrays, self._key, self._ledger = arrays, key, ledger
        self._count = arrays.views_per_shard(key)
        staged = arrays.staged.rows(key) if self._count else []
        committed = np.isin(staged, ledger.table()["row"].to_numpy()) if staged else ()
        self._ready = {row for row, is_committed in zip(staged, committed, strict=True) if is_committed}
        """Rows that are staged and committed."""
        self._lacks: dict[int, set[int]] = {}
        """Of each shard that rows were added to, those that are still to come; of a whole one none."""

    def add(self, rows: Iterable[int]) -> None:
        """Take up rows that were staged and then committed; write every shard that is complete now.

        Raises
        ------
        StoreError
            The shard that is there is damaged; no space, no permission.
        """
        for row in rows if self._count else ():
            self._ready.add(row)
            shard = row // self._count
            if shard not in self._lacks:
                there = self._in_shard(shard)
                missing = set(self._rows(shard)) - self._ready - there
                # one that is whole is being repaired, and others of it may come
                self._lacks[shard] = missing or ({LATER} if row in there else set())
            self._lacks[shard].discard(row)
            if not self._lacks[shard]:
                self._write(shard)

    def finish(self) -> None:
        """Write every shard of which rows are staged, and remove what is staged and not committed.

        Raises as :meth:`add`.
        """
        if not self._count:
            return
        for shard in sorted({row // self._count for row in self._ready}):
            self._write(shard)
        self._arrays.staged.remove(self._key, self._arrays.staged.rows(self._key))
        self._lacks.clear()

    def _rows(self, shard: int) -> range:
        rows = self._arrays.embedding_array(self._key).shape[0]
        return range(shard * self._count, min((shard + 1) * self._count, rows))

    def _in_shard(self, shard: int) -> set[int]:
        """Return the rows that are in a shard; none where it is damaged, because all of them will come again."""
        try:
            return self._arrays.rows_in_shard(self._key, shard)
        except StoreError:
            return set()

    def _write(self, shard: int) -> None:
        storage, name = self._arrays.storage, self._arrays.chunk_name(self._key, shard * self._count)
        rows = range(shard * self._count, (shard + 1) * self._count)
        ready = self._ready.intersection(rows)
        before = _whole(storage, name)
        chunks = self._before(name, before, rows, ready)
        for row in ready:
            chunk = self._arrays.staged.read(self._key, row)
            # None: another process gathered it since
            chunks[row - rows.start] = chunk if chunk is not None else chunks[row - rows.start]
        data = pack(chunks)
        if data != before:
            storage.write(name, data)
            storage.changed(name)
            if _whole(storage, name) != data:
                raise StoreError(f"{storage.root}/{name} reads back other than it was written; check the disk")
        self._arrays.staged.remove(self._key, ready)
        self._ready -= ready
        self._lacks.pop(shard, None)

    def _before(self, name: str, data: bytes | None, rows: range, ready: set[int]) -> list[bytes | None]:
        """Return the chunks that a shard has; none where it is not there, or where all of them are to be replaced."""
        if data is None:
            return [None] * self._count
        try:
            return unpack(data, self._count)
        except StoreError as error:
            committed = self._ledger.table()["row"].to_numpy()
            if not ready.issuperset(np.intersect1d(committed, np.arange(rows.start, rows.stop)).tolist()):
                raise StoreError(f"{self._arrays.storage.root}/{name}: {error}") from None
            return [None] * self._count


def _whole(storage: Storage, name: str) -> bytes | None:
    """Return all bytes under a name as they are there, not a copy of them."""
    size = storage.size(name)
    return None if size is None else storage.part(name, 0, size)
