"""Labels of variants that were embedded before ``truths/`` was kept, or whose entries were lost."""

from __future__ import annotations

from itertools import islice

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
    known = store.truths.ledger.rows().keys()
    committed = {view for key in store.arrays.embedding_keys() for view in store.committed(key)} - known
    if not committed:
        return 0
    varied = [view for view in ViewRecord.of(store.views_table()) if view.variant and view.view in committed]
    frames = Frames(store)
    shown = iter(progress(varied, total=len(varied), what="labels of variants") if varied else ())
    while part := list(islice(shown, SEGMENT)):
        store.truths.ledger.commit([store.truths.write(view.view, view.row, *frames.truth(view)) for view in part])
    return len(varied)
