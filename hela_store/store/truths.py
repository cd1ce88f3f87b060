"""The labels that are stored with augmented variants, compared with their sums whenever they are read."""

from __future__ import annotations

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.sums import array_sum
from hela_store.errors import StoreError

from .arrays import Arrays, view_chunk
from .ledger import Entry, Ledger
from .storage import read_right

REPAIR = "`hela-store verify --repair` makes them again"


class Truths:
    """Warped labels, int32, and where they say something, bool, of augmented variants, by view.

    Parameters
    ----------
    arrays : Arrays
    ledger : Ledger
        ``<store>/truths``: an entry for every variant whose labels are durable. Variants that were embedded before this
        ledger was kept have none, and are read without a comparison until the next ``embed`` adds it.
    """

    def __init__(self, arrays: Arrays, ledger: Ledger) -> None:
        self.arrays, self.ledger = arrays, ledger
        self._sums: dict[str, str | None] | None = None

    def write(self, view: str, row: int, label: LabelArray, valid: BoolArray) -> Entry:
        """Write the labels of a variant durably; return the entry that :meth:`Ledger.commit` is to write after it."""
        self.arrays.write_view_truth(row, label, valid)
        entry = Entry.of(view, row, label, valid)
        if self._sums is not None:
            self._sums[view] = entry.xxh3
        return entry

    def read(self, view: str, shape_rc: tuple[int, int], row: int) -> tuple[LabelArray, BoolArray]:
        """Return the labels of a variant and where they say something, both (row, col).

        Parameters
        ----------
        view : str
            View id.
        shape_rc : (int, int)
            Rows and columns of the view, px.
        row : int
            Of the view in the plan.

        Raises
        ------
        StoreError
            They were never written, or are not those that were.
        """
        if self._sums is None:
            table = self.ledger.table()
            self._sums = dict(zip(table["view"].to_pylist(), table["xxh3"].to_pylist(), strict=True))
        expected = self._sums.get(view)
        chunks = [view_chunk(shape_rc, name, row) for name in ("label", "valid")]

        def compared() -> tuple[LabelArray, BoolArray]:
            label, valid = self.arrays.view_truth(shape_rc, row)
            if expected is not None and array_sum(view, label, valid) != expected:
                where = f"{chunks[0]} and {chunks[1]} of {self.arrays.storage.root}"
                raise StoreError(f"{where} are not those that were stored; {REPAIR}")
            return label, valid

        return read_right(self.arrays.storage, chunks, f"the labels of view {view}", compared)
