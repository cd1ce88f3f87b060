"""Committed embeddings, compared with the ledger whenever they are read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from hela_store.base.aliases import FloatArray
from hela_store.base.sums import array_sum
from hela_store.errors import StoreError

from .arrays import Arrays
from .ledger import Ledger, view_digest
from .storage import read_right

REPAIR = "`hela-store verify --repair` encodes it again"


class Embeddings:
    """Stored arrays of the committed views of one encoder key, by their rows.

    Entries of the ledger that were written before there were fast sums are compared by their sha256, once in a process.

    Parameters
    ----------
    arrays : Arrays
    key : str
        Encoder key.
    ledger : Ledger
        Of that key; read again where a row is asked for that was not committed yet.
    """

    def __init__(self, arrays: Arrays, key: str, ledger: Ledger) -> None:
        self._arrays, self._key, self._ledger = arrays, key, ledger
        self._table = ledger.table().slice(0, 0)
        self._place: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._compared: set[int] = set()

    def read(self, row: int) -> FloatArray:
        """Return one embedding as stored, float16 or float32: (256, 64, 64), CHW, or tokens, (64, 64, C).

        Parameters
        ----------
        row : int
            Of a committed view in the embeddings array.

        Raises
        ------
        StoreError
            It is not committed, lost, cut short, or not what was committed: damaged, or another view's.
        """
        storage, name = self._arrays.storage, self._arrays.chunk_name(self._key, row)
        view, sha256, fast = self._entry(row)

        def compared() -> FloatArray:
            values = self._arrays.embedding(self._key, row)
            if not self._is_right(row, values, view, sha256, fast):
                raise StoreError(f"{storage.root}/{name} is not the one that was committed; {REPAIR}")
            return values

        return read_right(storage, [name], f"the embedding of view {view}", compared)

    def _is_right(self, row: int, values: FloatArray, view: str, sha256: str, fast: str | None) -> bool:
        if fast is not None:
            return array_sum(view, values) == fast
        if row not in self._compared and view_digest(view, values) == sha256:
            self._compared.add(row)
        return row in self._compared

    def _entry(self, row: int) -> tuple[str, str, str | None]:
        if row >= len(self._place) or self._place[row] < 0:
            self._index()
            if row >= len(self._place) or self._place[row] < 0:
                raise StoreError(f"row {row} of {self._key} is not committed; run `hela-store embed`")
        place = int(self._place[row])
        values = (self._table[name][place].as_py() for name in ("view", "sha256", "xxh3"))
        view, sha256, fast = values
        return view, sha256, fast

    def _index(self) -> None:
        self._table = self._ledger.table().combine_chunks()
        rows = self._table["row"].to_numpy()
        place = np.full(rows.max(initial=-1) + 1, -1)
        place[rows] = np.arange(len(rows))  # a later entry replaces an earlier one
        views = self._table["view"]
        if len(rows) != pc.count_distinct(views).as_py() or len(rows) != (place >= 0).sum():
            _refuse_shared(self._key, views.to_pylist(), rows.tolist())
        self._place = place


def _refuse_shared(key: str, views: list[str], rows: list[int]) -> None:
    """Raise where two views have the same row, by what the ledger says last of each."""
    last = dict(zip(views, rows, strict=True))
    owner: dict[int, str] = {}
    for view, row in last.items():
        if owner.setdefault(row, view) != view:
            found = f"ledger/{key} gives row {row} to the views {owner[row]} and {view}"
            raise StoreError(f"{found}; `hela-store verify --repair` encodes both again")
