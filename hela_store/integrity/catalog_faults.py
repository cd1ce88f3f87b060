"""Whether the catalog says what the files of the store say; a rebuild makes it right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hela_store.catalog.index import FILE, fault
from hela_store.errors import RunError, StoreError

from .store_faults import Fault


def catalog_faults(store_path: Path) -> Iterator[Fault]:
    """Yield the fault of a catalog with altered rows, or with more than the tables that are made here.

    Where a file of the store is damaged itself, there is nothing to compare with.
    """
    try:
        note = fault(store_path)
    except (RunError, StoreError):
        return
    if note:
        yield Fault(kind="damaged", path=FILE, note=f"{note}; run `hela-store catalog rebuild`")
