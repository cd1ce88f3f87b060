"""Find one planned view by its frame, tile and variant."""

from __future__ import annotations

import difflib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.errors import StoreError

from .records import ViewRecord

NAMES_COMPARED = 10_000


def find_view(store_path: Path, views: pa.Table, frame: str, tile: int, variant: int) -> ViewRecord:
    """Return a planned view of a frame.

    Parameters
    ----------
    store_path : Path
        Folder of the store, for messages.
    views : pyarrow.Table
        Columns of `PLAN_SCHEMA`.
    frame : str
    tile, variant : int

    Raises
    ------
    StoreError
        There is no such frame, or it has no such view.
    """
    found = list(ViewRecord.of(views.filter(pc.equal(views["frame"], frame))))
    for view in found:
        if (view.tile, view.variant) == (tile, variant):
            return view
    if not found:
        names = sorted(views["frame"].unique().to_pylist())
        near = difflib.get_close_matches(frame, names[:NAMES_COMPARED], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {names[0]!r} to {names[-1]!r}"
        raise StoreError(f"no frame {frame!r} in {store_path}{hint}")
    have = [(view.tile, view.variant) for view in found]
    raise StoreError(
        f"{frame} has no tile {tile}, variant {variant}; it has tiles 0 to {max(t for t, _ in have)}, "
        f"variants 0 to {max(v for _, v in have)}"
    )
