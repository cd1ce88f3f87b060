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

from .errors import StoreError
from .ledger import Entry, view_digest
from .sam.encoder import encode
from .work import Frames, View, Work

if TYPE_CHECKING:
    from .sam.checkpoints import LoadedSam
    from .store import Store

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
    frames, precision = Frames(store), store.recipe.encoder.precision
    groups = [group for group, _ in work]

    def read(index: int) -> npt.NDArray[np.float32] | None:
        return np.stack([frames.pixels(view) for view in groups[index]]) if index < len(groups) else None

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as committer, ThreadPoolExecutor(WRITERS) as writers:

        def commit(todo: list[View], found: dict[str, npt.NDArray[np.float32]]) -> list[str]:
            store.ledger().commit(writers.map(lambda view: write_view(store, view, found[view["view"]]), todo))
            return [view["view"] for view in todo]

        ahead = reader.submit(read, 0)
        writing: Future[list[str]] | None = None
        for index, (group, todo) in enumerate(work):
            pixels = ahead.result()
            assert pixels is not None
            ahead = reader.submit(read, index + 1)
            embeddings = encode(sam.encoder, pixels, precision).numpy()
            if writing is not None:
                yield from writing.result()
            found = {view["view"]: embedding for view, embedding in zip(group, embeddings, strict=True)}
            writing = committer.submit(commit, todo, found)
        if writing is not None:
            yield from writing.result()


def write_view(store: Store, view: View, embedding: npt.NDArray[np.float32]) -> Entry:
    """Write one embedding, float32, (256, 64, 64), durably; return what the ledger is to say of it."""
    stored = store.arrays.write_embedding(store.key, view["row"], embedding)
    back = store.arrays.embedding(store.key, view["row"])
    if back.tobytes() != stored.tobytes():
        raise StoreError(f"row {view['row']} of {store.key} reads back other than it was written; check the disk")
    return Entry(view=view["view"], row=view["row"], sha256=view_digest(view["view"], back))


def make_room(store: Store) -> None:
    """Give the key's array a row for every view of every plan, and say beside it which is which."""
    columns = coordinates(store)
    arrays = store.recipe.arrays
    store.arrays.create_embeddings(store.key, len(columns["view"]), arrays.dtype, arrays.codec)
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
