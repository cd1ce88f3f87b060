"""Encode and commit: reading, compressing and writing in threads of their own, while the encoder keeps the main one.

A batch is committed in this order: chunks, their folder, then the ledger entry. A process that is killed in between
leaves at most chunks that nobody believes in. While a CPU encodes a batch, at most one other is being written. A GPU is
given the next batch before the last one was fetched, and as many batches are being written as keep the cores busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.aliases import FloatArray
from hela_store.base.cores import usable_cores
from hela_store.base.executors import outcome
from hela_store.errors import StoreError
from hela_store.sam.devices import Room
from hela_store.sam.encoder import Fetch, begin_encode
from hela_store.store.ledger import Entry
from hela_store.store.records import ViewRecord

from .batches import Frames, Group
from .readers import Read, Warped, readers

if TYPE_CHECKING:
    from hela_store.sam.checkpoints import LoadedSam
    from hela_store.store.store import Store

Commit = Callable[[Iterable[Entry], Iterable[Entry]], object]
"""Given the entries of embeddings and those of the labels of variants."""
WRITERS = max(4, usable_cores())
"""Chunks that are compressed at once."""
AHEAD = ("cuda",)
"""Devices that encode faster than one batch can be written; kills cost them the few batches that are under way."""


class Pipeline:
    """Encodes groups of views and stores their embeddings; keeps what it knows of the frames from call to call.

    Parameters
    ----------
    store : Store
    sam : LoadedSam
        Its encoder is on the device to use.
    compiled : bool
        Run it through ``torch.compile``.
    readers : int
        Processes that read and augment, on the CPU whatever the device, so that their number changes no bit; 0 is a
        thread.
    """

    def __init__(self, store: Store, sam: LoadedSam, *, compiled: bool = False, readers: int = 0) -> None:
        self._store, self._encoder, self._compiled, self._readers = store, sam.encoder, compiled, readers
        self._frames = Frames(store)
        self._room = Room()

    @property
    def _fast(self) -> bool:
        """Whether the encoder is faster than one batch can be written."""
        return next(self._encoder.parameters()).device.type in AHEAD

    @cached_property
    def _labelled(self) -> set[str]:
        """Variants whose labels were stored, under whichever key they were embedded."""
        return set(self._store.truths.ledger.rows())

    def run(self, work: Sequence[Group], commit: Commit | None = None) -> Generator[str, None, None]:
        """Encode group by group and commit what is to do of each; yield the id of each view that was committed.

        Left early, by an error, an interrupt or ``close``, it waits until the batches being written are committed.

        Parameters
        ----------
        work : list of groups
        commit : called with the entries of a group once all their chunks are durable; None is the store's ledger

        Raises
        ------
        StoreError
            No space, no permission, a frame that changed in the store, or a disk that does not read back what was
            written.
        ClusterError
            A process that reads is gone.
        """
        with (
            readers(self._store, self._frames, self._readers) as reader,
            ThreadPoolExecutor(1) as committer,
            ThreadPoolExecutor(WRITERS) as pool,
        ):
            writing = _Writing(self._store, commit or self._store.commit, committer, pool)
            ahead = deque[Future[Read]]()
            encoding = deque[tuple[Group, Warped, Fetch]]()
            coming = iter(work)

            def read_on(count: int) -> None:
                for group, todo in islice(coming, count):
                    ahead.append(reader(group, self._varied(todo)))

            def hand_over() -> Iterator[str]:
                (group, todo), warped, fetch = encoding.popleft()
                found = dict(zip((view.view for view in group), fetch().numpy(), strict=True))
                yield from writing.wait(1 + WRITERS // len(group) if self._fast else 1)
                writing.begin(todo, found, warped)

            read_on(self._readers or 1)
            for group, todo in work:
                pixels, warped = outcome(ahead.popleft())
                read_on(1)
                encoding.append(((group, todo), warped, self._encode(pixels)))
                if not self._fast or len(encoding) > 1:
                    yield from hand_over()
            while encoding:
                yield from hand_over()
            yield from writing.wait(1)

    def _encode(self, pixels: npt.NDArray[np.float32]) -> Fetch:
        how, arrays = self._store.recipe.encoder, self._store.recipe.arrays
        return begin_encode(
            self._encoder,
            pixels,
            how.precision,
            how.cut,
            compiled=self._compiled,
            room=self._room,
            stored=arrays.dtype,
        )

    def _varied(self, todo: list[ViewRecord]) -> list[ViewRecord]:
        """Return the variants whose labels are not stored yet."""
        return [view for view in todo if view.variant and view.view not in self._labelled]


class _Writing:
    """Batches that are being written at once; they are committed in their order.

    Parameters
    ----------
    store, commit : as of :class:`Pipeline`
    committer : of one thread
    pool : writes chunks
    """

    def __init__(self, store: Store, commit: Commit, committer: Executor, pool: Executor) -> None:
        self._store, self._commit, self._committer, self._pool = store, commit, committer, pool
        self._batches = deque[Future[list[str]]]()

    def begin(self, todo: list[ViewRecord], found: dict[str, FloatArray], warped: Warped) -> None:
        """Begin to write what is to do of a batch, and the labels of its variants."""
        before = self._batches[-1] if self._batches else None
        truths = [self._pool.submit(self._store.truths.write, view.view, view.row, *truth) for view, truth in warped]
        entries = [self._pool.submit(write_view, self._store, view, found[view.view]) for view in todo]

        def committed() -> list[str]:
            if before is not None:
                before.result()  # nothing is committed after a batch that could not be
            self._commit([entry.result() for entry in entries], [truth.result() for truth in truths])
            return [view.view for view in todo]

        self._batches.append(self._committer.submit(committed))

    def wait(self, most: int) -> Iterator[str]:
        """Wait until fewer than ``most`` batches are being written; yield the ids of what was committed."""
        while self._batches and (len(self._batches) >= most or self._batches[0].done()):
            yield from self._batches.popleft().result()


def write_view(store: Store, view: ViewRecord, embedding: FloatArray) -> Entry:
    """Write one embedding of the key's shape durably, float32 or as stored; return what the ledger is to say."""
    stored = store.arrays.write_embedding(store.key, view.row, embedding)
    back = store.arrays.embedding(store.key, view.row)
    bits = f"u{stored.itemsize}"  # a NaN is not equal to itself
    if not np.array_equal(back.view(bits), stored.view(bits)):
        raise StoreError(f"row {view.row} of {store.key} reads back other than it was written; check the disk")
    return Entry.of(view.view, view.row, back)


def make_room(store: Store, *, appends: bool = False) -> None:
    """Give the key's array a row for every view of every plan, and say beside it which is which.

    Parameters
    ----------
    store : Store
    appends : bool
        Whether rows were only added since this was last done; then what is beside the earlier ones is not compared.
    """
    rows = Coordinates(store)
    arrays = store.recipe.arrays
    views = store.views_table()
    varied = views.filter(pc.greater(views["variant"], 0))
    for size in sorted(set(zip(varied["height"].to_pylist(), varied["width"].to_pylist(), strict=True))):
        store.arrays.add_view_truth(size, len(rows))
    shape = store.recipe.encoder.stored_shape
    store.arrays.create_embeddings(store.key, len(rows), arrays.dtype, arrays.codec, shape, arrays.shard)
    store.arrays.write_coordinates(store.key, rows, from_end=appends)


UNKNOWN = {"view": "", "frame": "", "tile": -1, "variant": -1}
"""Coordinates of a row that is in no plan."""


class Coordinates:
    """View, frame, tile and variant of every row of the arrays, by all plans; :data:`UNKNOWN` where none has it."""

    def __init__(self, store: Store) -> None:
        parts = [part.select([*UNKNOWN, "row"]).replace_schema_metadata() for part in store.plan_parts()]
        self._every = pa.concat_tables(parts)
        rows = self._every["row"].to_numpy()
        self._first = np.full(rows.max() + 1, -1)
        self._first[rows[::-1]] = np.arange(len(rows))[::-1]

    def __len__(self) -> int:
        return len(self._first)

    def slice(self, offset: int, length: int) -> pa.Table:
        """Return some rows of them, strings and int64."""
        places = self._first[offset : offset + length]
        known = places[places >= 0]
        begin, end = known.min(initial=len(self._every)), known.max(initial=-1) + 1
        # of a part alone: taking rows of a table in pieces joins all of it first
        part = self._every.slice(begin, max(0, end - begin))
        found = part.take(pa.array(places - begin, mask=places < 0))
        return pa.table({name: pc.fill_null(found[name], value) for name, value in UNKNOWN.items()})
