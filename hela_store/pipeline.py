"""Encode and commit: reading, compressing and writing in threads of their own, while the encoder keeps the main one.

A batch is committed in this order: chunks, their folder, then the ledger entry. A process that is killed in between
leaves at most chunks that nobody believes in. At most one batch is being written while the next is being encoded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from .errors import StoreError
from .ledger import Entry, view_digest
from .sam.encoder import encode
from .types import BoolArray, LabelArray
from .work import Frames, View, Work

if TYPE_CHECKING:
    from .sam.checkpoints import LoadedSam
    from .store import Store

Truths = dict[int, tuple[LabelArray, BoolArray]]
"""Warped labels and valid pixels by row."""
WRITERS = 4
"""Chunks of a batch that are compressed at once."""


def commit_all(store: Store, sam: LoadedSam, work: Work) -> Generator[str, None, None]:
    """Encode group by group and commit what is to do of each; yield the id of each view that was committed.

    Left early, by an error, an interrupt or ``close``, it waits until the batch being written is committed.

    Raises
    ------
    StoreError
        No space, no permission, a frame that changed in the store, or a disk that does not read back what was written.
    """
    device = next(sam.encoder.parameters()).device
    frames, how = Frames(store, device), store.recipe.encoder
    labelled = {view for key in store.arrays.embedding_keys() for view in store.committed(key)}

    def read(index: int) -> tuple[npt.NDArray[np.float32], Truths] | None:
        if index == len(work):
            return None
        group, todo = work[index]
        pixels = frames.stack(group)
        varied = [view for view in todo if view["variant"] and view["view"] not in labelled]
        return pixels, {view["row"]: frames.truth(view) for view in varied}

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as committer, ThreadPoolExecutor(WRITERS) as writers:

        def commit(todo: list[View], found: dict[str, npt.NDArray[np.float32]], truths: Truths) -> list[str]:
            for row, truth in truths.items():
                store.arrays.write_view_truth(row, *truth)
            store.ledger().commit(writers.map(lambda view: write_view(store, view, found[view["view"]]), todo))
            return [view["view"] for view in todo]

        ahead = reader.submit(read, 0)
        writing: Future[list[str]] | None = None
        for index, (group, todo) in enumerate(work):
            made = ahead.result()
            assert made is not None
            pixels, truths = made
            ahead = reader.submit(read, index + 1)
            embeddings = encode(sam.encoder, pixels, how.precision, how.cut).numpy()
            if writing is not None:
                yield from writing.result()
            found = {view["view"]: embedding for view, embedding in zip(group, embeddings, strict=True)}
            writing = committer.submit(commit, todo, found, truths)
        if writing is not None:
            yield from writing.result()


def write_view(store: Store, view: View, embedding: npt.NDArray[np.float32]) -> Entry:
    """Write one embedding, float32, of the key's shape, durably; return what the ledger is to say of it."""
    stored = store.arrays.write_embedding(store.key, view["row"], embedding)
    back = store.arrays.embedding(store.key, view["row"])
    if back.tobytes() != stored.tobytes():
        raise StoreError(f"row {view['row']} of {store.key} reads back other than it was written; check the disk")
    return Entry(view=view["view"], row=view["row"], sha256=view_digest(view["view"], back))


def make_room(store: Store) -> None:
    """Give the key's array a row for every view of every plan, and say beside it which is which."""
    columns = coordinates(store)
    arrays = store.recipe.arrays
    views = store.views_table()
    varied = views.filter(pc.greater(views["variant"], 0))
    for shape in sorted(set(zip(varied["height"].to_pylist(), varied["width"].to_pylist(), strict=True))):
        store.arrays.add_view_truth(shape, len(columns["view"]))
    shape = store.recipe.encoder.stored_shape
    store.arrays.create_embeddings(store.key, len(columns["view"]), arrays.dtype, arrays.codec, shape)
    store.arrays.write_coordinates(store.key, columns)


def coordinates(store: Store) -> dict[str, Sequence[str] | Sequence[int]]:
    """Return view, frame, tile and variant of every row, by all plans."""
    rows: dict[int, View] = {}
    for plan in store.all_plans():
        for view in plan.select(["view", "frame", "tile", "variant", "row"]).to_pylist():
            rows.setdefault(view["row"], view)
    lost = {"view": "", "frame": "", "tile": -1, "variant": -1}
    every = [rows.get(row, lost) for row in range(max(rows) + 1)]
    return {name: [view[name] for view in every] for name in lost}
