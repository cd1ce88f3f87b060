"""Find the cells that are most like one, by the cosine of the angle between their vectors."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hela_store.base.progress import Progress, silent
from hela_store.errors import StoreError
from hela_store.store.find_view import NAMES_COMPARED
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .make import cell_vectors


@dataclass(frozen=True, kw_only=True)
class SimilarCell:
    """A cell that is like another one.

    Attributes
    ----------
    cell : str
        Its id, ``"<frame>#<label>"``.
    similarity : float
        Cosine of the angle between both vectors, -1 to 1.
    frame : str
        Id of its frame.
    label : int
        Its value in the label image.
    box : (x0, y0, x1, y1)
        Its bounding box in frame px; x1 and y1 exclusive.
    """

    cell: str
    similarity: float
    frame: str
    label: int
    box: tuple[int, int, int, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def similar(
    store: Store, cell: str, limit: int = 20, run: str | None = None, *, progress: Progress = silent
) -> list[SimilarCell]:
    """Return the labelled cells that are most like one, the most similar first, without the cell itself.

    Parameters
    ----------
    store : Store
        With the views of all labelled frames embedded; vectors that are missing are made first.
    cell : str
        Id of the cell, such as ``"01/t012#17"``.
    limit : int
        How many cells to return at most.
    run : str, optional
        A fine-tuning run, or ``"zero-shot"``: compare the mask tokens of its decoder in place of pooled embeddings.
    progress : callable
        Shown while vectors are made.

    Returns
    -------
    list of SimilarCell
        The most similar first; cells that are equally similar in the order of the frames.

    Raises
    ------
    StoreError
        The store has no such cell, the limit is no positive number, or a view is not embedded yet.
    RunError, CheckpointError
        As :func:`hela_store.vectors.make.cell_vectors`.
    """
    if type(limit) is not int or limit < 1:
        raise StoreError(f"limit is {limit!r}, expected a whole number of cells from 1 on")
    records = {record.cell: record for record in CellRecord.of(store.cells_table())}
    if cell not in records:
        raise StoreError(_unknown(store, cell, list(records)))
    found = cell_vectors(store, run, progress=progress)
    values = (found.vectors if found.tokens is None else found.tokens).astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    place = found.cells.index(cell)
    cosines = values @ values[place]
    cosines[place] = -np.inf
    best = np.argsort(-cosines, kind="stable")[: min(limit, len(cosines) - 1)]
    return [_of(records[found.cells[number]], float(cosines[number])) for number in best]


def _of(record: CellRecord, similarity: float) -> SimilarCell:
    return SimilarCell(cell=record.cell, similarity=similarity, frame=record.frame, label=record.label, box=record.box)


def _unknown(store: Store, cell: str, known: list[str]) -> str:
    """Say that there is no such cell, and which there are in its frame, or which frame was meant."""
    if not known:
        return f"the store has no cell {cell!r}, because none of its frames has labels"
    frame, mark, _ = cell.rpartition("#")
    if not mark:
        return f"no cell {cell!r} in {store.path}; expected an id of frame and label, such as {known[0]!r}"
    if frame not in store.frame_records():
        near = difflib.get_close_matches(frame, list(store.frame_records())[:NAMES_COMPARED], n=1)
        meant = next((each for each in known if near and each.startswith(f"{near[0]}#")), known[0])
        return f"no cell {cell!r}: the store has no frame {frame!r}; it has cells such as {meant!r}"
    inside = [each.rpartition("#")[2] for each in known if each.rpartition("#")[0] == frame]
    if not inside:
        return f"no cell {cell!r}: frame {frame} has no labelled cell; there are cells such as {known[0]!r}"
    more = f", and {len(inside) - 10} more" if len(inside) > 10 else ""
    return f"no cell {cell!r}: frame {frame} has the labels {', '.join(inside[:10])}{more}"
