"""Labels of variants that were embedded before ``truths/`` was kept, or whose entries were lost."""

from __future__ import annotations

from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.progress import Progress
from hela_store.store.records import ViewRecord
from hela_store.store.store import Store

from .batches import Frames

SEGMENT = 64
"""Most variants whose labels one entry of the ledger stands for."""


def seal_truths(store: Store, progress: Progress) -> int:
    """Store the labels of committed variants that ``truths/`` does not list, and list them; return how many.

    Whoever calls holds the store's embed lock.
    """
    views = store.views_table()
    views = views.filter(pc.greater(views["variant"], 0))
    listed = pc.is_in(views["view"], store.truths.ledger.table()["view"].combine_chunks())
    views = views.filter(pc.invert(listed))
    if not len(views):
        return 0
    committed = [store.ledger(key).table()["view"] for key in store.arrays.embedding_keys()]
    there = pc.unique(pa.chunked_array([part for column in committed for part in column.chunks], pa.string()))
    varied = list(ViewRecord.of(views.filter(pc.is_in(views["view"], there))))
    frames = Frames(store)
    shown = iter(progress(varied, total=len(varied), what="labels of variants") if varied else ())
    while part := list(islice(shown, SEGMENT)):
        store.truths.ledger.commit([store.truths.write(view.view, view.row, *frames.truth(view)) for view in part])
    return len(varied)
