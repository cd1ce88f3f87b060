"""Say what is wrong with a store by its tables, its ledger and a sample of its chunks.

Every chunk is found by its name, which follows from the plan. Nothing is listed, so the time does not depend on how
many chunks there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.manifest import FILE
from hela_store.base.progress import Progress
from hela_store.embedding.batches import Frames
from hela_store.embedding.plan import view_id
from hela_store.errors import RunError, StoreError
from hela_store.runs.folder import run_ids
from hela_store.runs.info import CONFIG, read_info
from hela_store.store.arrays import COORDINATES
from hela_store.store.ledger import Entry, Ledger
from hela_store.store.records import FrameRecord, ViewRecord
from hela_store.store.sizes import FRAME_PARTS
from hela_store.store.storage import METADATA
from hela_store.store.store import Store
from hela_store.store.tables import PLAN_SCHEMA

from .label_faults import label_faults
from .store_faults import (
    ARRAYS,
    Fault,
    array_fault,
    chunk_kind,
    embedding_fault,
    encoder_faults,
    error_of,
    file_fault,
    frame_fault,
    truth_fault,
    wrong_json,
)

FAST_SAMPLE = 64


@dataclass(frozen=True, kw_only=True)
class FastFindings:
    """Result of a fast verification: faults, views committed and left, and how many embeddings were read."""

    faults: tuple[Fault, ...]
    committed: int = 0
    left: int = 0
    sampled: int = 0


def fast_findings(store: Store, sample: int, rng: np.random.Generator, progress: Progress) -> FastFindings:
    """Compare tables with their sums, the ledger with the plans, and a sample of frames and embeddings with both.

    Parameters
    ----------
    store : Store
    sample : int
        Embeddings that are read, and as many frames and labels of variants at most.
    rng : numpy.random.Generator
        Draws which.
    progress : Progress

    Raises
    ------
    StoreError
        Nothing was ingested, or ``ingest/`` itself is damaged.
    """
    store.cell_count()  # refuses where it is damaged
    found = [*_plan_faults(store), *_ledger_faults(store), *_run_faults(store)]
    found += encoder_faults(store)
    if any(fault.path.startswith(("plan/", "ledger/", "truths/")) for fault in found):
        return FastFindings(faults=tuple(found))
    every = [PLAN_SCHEMA.empty_table(), *(part.replace_schema_metadata() for part in store.plan_parts())]
    plans = pa.concat_tables(every).combine_chunks()
    ledger = _latest(store.ledger())
    found += [] if store.plan_path().exists() else _lost_plan(store, plans, ledger)
    found += _stale(store, plans, ledger)
    table = store.frames_table()
    frames = list(FrameRecord.of(table.take(_drawn(rng, len(table), sample))))
    rows = pc.max(plans["row"]).as_py() + 1 if len(plans) else 0
    found += _metadata_faults(store, sorted({record.group for record in frames}), rows)
    if not any(fault.path.startswith(ARRAYS) for fault in found):
        for record in progress(frames, total=len(frames), what="verify frames"):
            found += frame_fault(store, record)
        found += label_faults(store)
        chosen = ledger.take(_drawn(rng, len(ledger), sample))
        found += _sample_faults(store, plans, chosen, progress)
        found += _truth_faults(store, plans, ledger, sample, rng)
    unique = pc.unique(plans["view"])
    done = int(pc.sum(pc.is_in(unique, ledger["view"].combine_chunks())).as_py() or 0)
    return FastFindings(
        faults=tuple(dict.fromkeys(found)),
        committed=len(ledger),
        left=len(unique) - done,
        sampled=min(sample, len(ledger)),
    )


def _drawn(rng: np.random.Generator, count: int, sample: int) -> pa.Array:
    return pa.array(np.sort(rng.choice(count, min(sample, count), replace=False, shuffle=False)), pa.int64())


def _plan_faults(store: Store) -> Iterator[Fault]:
    frames = store.frames_table()
    has_sums = frames["image_xxh3"].null_count < len(frames)
    if has_sums and not (store.path / FILE).exists():
        yield file_fault(store, store.path / FILE, "it is not there, so that nothing guards ingest/ and plan/")
    for path in sorted((store.path / "plan").glob("*.parquet")):
        if note := error_of(partial(_unreadable_plan, store, path)):
            yield file_fault(store, path, note)


def _unreadable_plan(store: Store, path: Path) -> str | None:
    return None if store.read_plan(path) is not None else "it is empty"


def _ledger_faults(store: Store) -> Iterator[Fault]:
    for ledger in (store.ledger(), store.truths.ledger):
        try:
            ledger.table()
        except StoreError:
            for path in ledger.damaged():
                yield file_fault(store, path, f"the ledger segment {'cannot be read' if path.exists() else 'is lost'}")


def _run_faults(store: Store) -> Iterator[Fault]:
    """Yield the runs whose configuration or manifest is not what was published."""
    for name in run_ids(store.path):
        folder = store.path / "runs" / name
        try:
            read_info(folder, name)
        except RunError as error:
            yield file_fault(store, folder / CONFIG, str(error))


def _latest(ledger: Ledger) -> pa.Table:
    """Return the entry of each view that counts: the last one."""
    table = ledger.table().combine_chunks()
    newest = table.take(pa.array(np.arange(len(table))[::-1])) if len(table) else table
    _, first = np.unique(pc.index_in(newest["view"], pc.unique(newest["view"])).to_numpy(), return_index=True)
    return newest.take(pa.array(first)) if len(first) < len(table) else table


def _lost_plan(store: Store, plans: pa.Table, ledger: pa.Table) -> Iterator[Fault]:
    known = pc.is_in(ledger["view"], pc.unique(plans["view"]))
    lost = len(ledger) - int(pc.sum(known).as_py() or 0)
    if lost:
        yield file_fault(store, store.plan_path(), f"it is not there, and {lost} committed views are in no other plan")


def _stale(store: Store, plans: pa.Table, ledger: pa.Table) -> Iterator[Fault]:
    """Yield the committed views that the plans have in another row than the ledger."""
    index = pc.index_in(ledger["view"], plans["view"].combine_chunks())
    planned = plans["row"].take(index)
    for place in np.flatnonzero(pc.fill_null(pc.not_equal(planned, ledger["row"]), False).to_numpy()):
        (entry,) = _entries(ledger.slice(place, 1))
        (view,) = ViewRecord.of(plans.slice(index[int(place)].as_py(), 1))
        yield embedding_fault(store, entry, "stale", view)


def _metadata_faults(store: Store, groups: Sequence[str], rows: int) -> Iterator[Fault]:
    names = ["frames", *itertools.chain.from_iterable(_array_names(f"frames/{group}", FRAME_PARTS) for group in groups)]
    folder = f"embeddings/{store.key}"
    is_embedded = store.ledger().path.exists()
    if is_embedded:
        names += ["embeddings", *_array_names(folder, ("embedding", *COORDINATES))]
    for name in (METADATA, *(f"{each}/{METADATA}" for each in names)):
        note = error_of(partial(wrong_json, store, name))
        if note:
            yield array_fault(name, "it is missing" if store.arrays.storage.size(name) is None else note)
    arrays, shape = store.recipe.arrays, store.recipe.encoder.stored_shape
    if is_embedded:
        note = error_of(partial(store.arrays.metadata_fault, store.key, rows, arrays.dtype, arrays.codec, shape))
        if note:
            yield array_fault(f"{folder}/embedding/{METADATA}", note)


def _array_names(group: str, arrays: Sequence[str]) -> list[str]:
    return [group, *(f"{group}/{name}" for name in arrays)]


def _sample_faults(store: Store, plans: pa.Table, chosen: pa.Table, progress: Progress) -> Iterator[Fault]:
    """Yield what is wrong with some committed embeddings, and with what plan and coordinates say of them."""
    planned = plans.filter(pc.is_in(plans["view"], chosen["view"].combine_chunks()))
    views = {view.view: view for view in ViewRecord.of(planned)}
    frames = store.frames_table().select(["frame", "sha256"])
    frames = frames.filter(pc.is_in(frames["frame"], planned["frame"].combine_chunks()))
    sums = dict(zip(*(column.to_pylist() for column in frames.columns), strict=True))
    for entry in progress(_entries(chosen), total=len(chosen), what="verify"):
        view = views.get(entry.view)
        if kind := chunk_kind(store, entry):
            yield embedding_fault(store, entry, kind, view)
        if view is None:
            continue
        if view.view != view_id(sums.get(view.frame, ""), view.lo, view.hi, view.rect, view.params):
            yield file_fault(store, store.plan_path(), f"view {view.view} is not what its row says")
        for name in COORDINATES:
            note = error_of(partial(_wrong_coordinate, store, name, view))
            if note:
                yield array_fault(f"embeddings/{store.key}/{name}", note)


def _wrong_coordinate(store: Store, name: str, view: ViewRecord) -> str | None:
    return None if store.arrays.coordinate_at(store.key, name, view.row) == getattr(view, name) else "not the plan's"


def _truth_faults(
    store: Store, plans: pa.Table, ledger: pa.Table, sample: int, rng: np.random.Generator
) -> Iterator[Fault]:
    varied = plans.filter(pc.greater(plans["variant"], 0))
    varied = varied.filter(pc.is_in(varied["view"], ledger["view"].combine_chunks()))
    frames = Frames(store)
    for view in ViewRecord.of(varied.take(_drawn(rng, len(varied), sample))):
        yield from truth_fault(store, frames, view)


def _entries(table: pa.Table) -> list[Entry]:
    return [Entry(**row) for row in table.to_pylist()]
