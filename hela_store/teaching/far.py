"""Measure how far proposals are from the cells that were taught: embeddings, pooled in each mask, are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.images.geometry import scoring_tiles
from hela_store.images.labels import compact
from hela_store.store.records import CellBox
from hela_store.vectors.pool import Vectors, pooled

from .decode import Decoding
from .next_cell import Candidate

Label = npt.NDArray[np.int32]
Cells = Iterable[tuple[str, Label, Iterable[int]]]
"""Cells by frame: its id, its label image, int32, (row, col), and their labels."""
Taught = Callable[[], Cells]


def distances(decoding: Decoding, taught: Cells, candidates: Sequence[Candidate]) -> npt.NDArray[np.float64] | None:
    """Return 1 less the highest cosine of each candidate's vector with one of a taught cell's, float64, (N,).

    None while nothing was taught in an embedded frame.
    """
    parts = [
        _vectors(decoding, frame, label, sorted(cells)) for frame, label, cells in taught if decoding.is_embedded(frame)
    ]
    known = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    if not len(known):
        return None
    found = np.zeros(len(candidates))
    for frame in dict.fromkeys(candidate.frame for candidate in candidates):
        places = [i for i, candidate in enumerate(candidates) if candidate.frame == frame]
        label = np.zeros(decoding.frame(frame).shape, np.int32)
        for number, i in enumerate(places, 1):
            candidates[i].proposal.paint(label, number)
        vectors = _vectors(decoding, frame, label, range(1, len(places) + 1))
        found[places] = 1 - (_unit(vectors) @ _unit(known).T).max(1)
    return found


def _vectors(decoding: Decoding, frame: str, label: Label, cells: Iterable[int]) -> Vectors:
    """Return the vectors of cells of a label image, (n, 256); each is read from the tile that holds it best."""
    stored, boxes = decoding.frame(frame), _boxes(frame, label)
    wanted = [boxes[cell] for cell in cells if cell in boxes]
    homes = scoring_tiles([box.box for box in wanted], stored.tiles, stored.shape)
    found = np.zeros((len(wanted), 256), np.float32)
    for tile in np.unique(homes).tolist():
        members = np.flatnonzero(homes == tile)
        embedding = decoding.embedding(frame, tile).cpu().numpy()
        found[members] = pooled(embedding, stored.tiles[tile], label, [wanted[i] for i in members])
    return found


def _boxes(frame: str, label: Label) -> dict[int, CellBox]:
    ids, index = compact(label)
    places = enumerate(ndimage.find_objects(index.astype(np.int32)), 1)
    return {
        int(ids[n]): CellBox("", frame, int(ids[n]), at[1].start, at[0].start, at[1].stop, at[0].stop)
        for n, at in places
        if at is not None
    }


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(length, 1e-12)
    return unit
