"""Say what can be wrong with a store's files, found by comparing them with its digests and its plan."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.base.manifest import FILE
from hela_store.base.progress import Progress
from hela_store.base.text import percent
from hela_store.embedding.batches import Frames
from hela_store.embedding.pipeline import Coordinates
from hela_store.embedding.plan import view_id
from hela_store.embedding.record import DECODER_FILE, RECORD_FILE, decoder_fault, read_record
from hela_store.errors import BucketError, StoreError
from hela_store.store.arrays import COORDINATES
from hela_store.store.ledger import Entry, view_digest
from hela_store.store.records import FrameRecord, ViewRecord
from hela_store.store.storage import METADATA
from hela_store.store.store import Store

VIEWS = "views"
"""Folder of the labels of variants."""
WARP_TOLERANCE = 1e-3
"""Share of the pixels of a warped label image that rounding may move on another machine."""
ARRAYS = "arrays.zarr/"
"""Begins the path of a fault in the arrays, wherever they lie."""
SEARCHED = 32
"""Of so many wrong embeddings it is looked up whose they are; with more, something else is the matter."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes
    ----------
    kind : str
        ``"missing"``, ``"truncated"``, ``"flipped"`` (other bytes than were committed), ``"swapped"`` (another view's
        embedding), ``"stale"`` (an earlier embedding of this view, or one of another encoder), ``"differs"`` (encoding
        it again gives something else), ``"damaged"`` (a file other than an embedding).
    path : str
        The file, relative to the store; of arrays in a bucket as if they were beside the recipe.
    note : str
        What was found.
    view, frame : str
        Of an embedding; empty for other files.
    tile, variant, row : int
        Of an embedding; -1 for other files.
    """

    kind: str
    path: str
    note: str
    view: str = ""
    frame: str = ""
    tile: int = -1
    variant: int = -1
    row: int = -1


def planned_views(store: Store) -> dict[str, ViewRecord]:
    """Return the views of all plans by id; of one in several plans as the current one has it, else the first."""
    found: dict[str, ViewRecord] = {}
    mine = map(store.read_plan, store.plan_files(store.plan_path().stem))
    for plan in itertools.chain(mine, store.plan_parts()):
        for view in ViewRecord.of(plan):
            found.setdefault(view.view, view)
    return found


def file_faults(store: Store) -> Iterator[Fault]:
    """Yield what is wrong with plan, ledger, encoder and array metadata; with a damaged plan only that."""
    broken = list(_plan_faults(store))
    yield from broken
    if broken:
        return
    has_sums = store.frames_table()["image_xxh3"].null_count < len(store.frames_table())
    if has_sums and not (store.path / FILE).exists():
        yield file_fault(store, store.path / FILE, "it is not there, so that nothing guards ingest/ and plan/")
    for segment in (*store.ledger().damaged(), *store.truths.ledger.damaged()):
        yield file_fault(
            store, segment, "the ledger segment cannot be read" if segment.exists() else "the ledger segment is lost"
        )
    yield from encoder_faults(store)
    yield from _metadata_faults(store)


def encoder_faults(store: Store) -> Iterator[Fault]:
    """Yield what is wrong with the decoder and the record of the recipe's encoder key."""
    for name, check in ((RECORD_FILE, _wrong_record), (DECODER_FILE, decoder_fault)):
        path, note = store.encoder_folder() / name, error_of(partial(check, store))
        if note and store.ledger().path.exists():
            yield file_fault(store, path, note)


def _wrong_record(store: Store) -> str | None:
    return None if read_record(store) else "it is missing"


def _wrong_coordinate(store: Store, name: str, expected: list[Any]) -> str | None:
    return None if store.arrays.coordinate(store.key, name) == expected else "not the plan's"


def _plan_faults(store: Store) -> Iterator[Fault]:
    """Yield the plans that are damaged, and the recipe's own where it is lost: there are committed views in no plan."""
    frames, broken = store.frames_table(), False
    sums = dict(zip(frames["frame"].to_pylist(), frames["sha256"].to_pylist(), strict=True))
    for path in sorted((store.path / "plan").glob("*.parquet")):
        note = error_of(partial(_wrong_plan, store, path, sums))
        if note:
            broken = True
            yield file_fault(store, path, note)
    if broken or store.plan_path().exists():
        return
    ledger = store.ledger()
    lost = set(ledger.table(skip=ledger.damaged())["view"].to_pylist())
    lost.difference_update(*(plan["view"].to_pylist() for plan in store.plan_parts()))
    if lost:
        yield file_fault(
            store, store.plan_path(), f"it is not there, and {len(lost)} committed views are in no other plan"
        )


def _wrong_plan(store: Store, path: Path, sums: dict[str, str]) -> str | None:
    for view in ViewRecord.of(store.read_plan(path)):
        if view.view != view_id(sums.get(view.frame, ""), view.lo, view.hi, view.rect, view.params):
            return f"view {view.view} is not what its row says"
    return None


def _metadata_faults(store: Store) -> Iterator[Fault]:
    there = store.arrays.storage.documents()
    above = {"/".join([*name.split("/")[:depth], METADATA]) for name in there for depth in range(name.count("/") + 1)}
    for name in sorted(above - set(there)):
        yield array_fault(name, "it is missing")
    for name in there:
        note = error_of(partial(wrong_json, store, name))
        if note:
            yield array_fault(name, note)
    if not store.ledger().path.exists():
        return
    rows = Coordinates(store)
    columns = rows.slice(0, len(rows)).to_pydict()
    arrays, shape = store.recipe.arrays, store.recipe.encoder.stored_shape
    note = error_of(partial(store.arrays.metadata_fault, store.key, len(rows), arrays.dtype, arrays.codec, shape))
    folder = f"embeddings/{store.key}"
    if note:
        yield array_fault(f"{folder}/embedding/{METADATA}", note)
    for name in COORDINATES:
        note = error_of(partial(_wrong_coordinate, store, name, columns[name]))
        if note:
            yield array_fault(f"{folder}/{name}", note)


def wrong_json(store: Store, name: str) -> str | None:
    """Say what is wrong with a description of an array or a group, None where nothing is; damaged JSON raises."""
    kind = json.loads(store.arrays.storage.read(name) or b"").get("node_type")
    return None if kind in ("array", "group") else f"node_type is {kind!r}"


def frame_faults(store: Store, progress: Progress) -> Iterator[Fault]:
    """Yield the frames whose pixels or labels are not those that were ingested."""
    store.cells_table()  # refuses where it is damaged
    records = store.frame_records()
    for record in progress(records.values(), total=len(records), what="verify frames"):
        yield from frame_fault(store, record)


def frame_fault(store: Store, record: FrameRecord) -> Iterator[Fault]:
    """Yield the fault of a frame whose pixels or labels are not those that were ingested."""
    notes = (store.pixels.fault(part, record.frame) for part in ("image", "label", "valid"))
    note = "; ".join(note.partition(";")[0] for note in notes if note)
    if note:
        yield Fault(kind="damaged", path=f"{ARRAYS}frames/{record.group}", note=note, frame=record.frame)


def truth_faults(store: Store, views: Mapping[str, ViewRecord], progress: Progress) -> Iterator[Fault]:
    """Yield the committed variants of planned views whose stored labels are not those of their frame, warped again."""
    ledger, frames = store.ledger(), Frames(store)
    entries = ledger.entries(skip=ledger.damaged())
    varied = [view for name, view in views.items() if view.variant and name in entries]
    for view in progress(varied, total=len(varied), what="verify variants"):
        yield from truth_fault(store, frames, view)


def truth_fault(store: Store, frames: Frames, view: ViewRecord) -> Iterator[Fault]:
    """Yield the fault of a variant whose stored labels are not those of its frame, warped again."""
    note = error_of(partial(_wrong_truth, store, frames, view))
    if note:
        path = f"{ARRAYS}{VIEWS}/{view.height}x{view.width}"
        place = {name: getattr(view, name) for name in ("frame", "tile", "variant", "row")}
        yield Fault(kind="damaged", path=path, note=note, **place)


def _wrong_truth(store: Store, frames: Frames, view: ViewRecord) -> str | None:
    stored = store.truths.read(view.view, view.shape, view.row)
    wrong = max(np.mean(there != made) for there, made in zip(stored, frames.truth(view), strict=True))
    return f"{percent(wrong)} of the variant's labels are not those of its frame" if wrong > WARP_TOLERANCE else None


def view_faults(store: Store, views: Mapping[str, ViewRecord], progress: Progress) -> Iterator[Fault]:
    """Yield the committed embeddings that are not what the ledger says, and rows that differ from the plan's."""
    ledger = store.ledger()
    entries = ledger.entries(skip=ledger.damaged())
    wrong: list[tuple[Entry, str]] = []
    for entry in progress(entries.values(), total=len(entries), what="verify"):
        kind = chunk_kind(store, entry)
        planned = views.get(entry.view)
        if kind is None and planned is not None and planned.row != entry.row:
            kind = "stale"
        if kind is not None:
            wrong.append((entry, kind))
    sums = _known_sums(store) if wrong else {}
    for index, (entry, kind) in enumerate(wrong):
        if kind == "flipped" and index < SEARCHED:
            kind = _whose(store, entry, entries, sums)
        yield embedding_fault(store, entry, kind, views.get(entry.view))


def unclaimed_views(store: Store, views: Mapping[str, ViewRecord], committed: Container[str]) -> set[str]:
    """Return the planned views whose chunk is there though the ledger has no entry of it."""
    left = {name: view for name, view in views.items() if name not in committed}
    if not left:  # a finished store may have a million chunks to list
        return set()
    there = store.arrays.stored_rows(store.key)
    return {name for name, view in left.items() if view.row in there}


NOTES = {
    "missing": "the file is not there",
    "truncated": "the file is cut short",
    "flipped": "it does not hold the bytes that were committed",
    "swapped": "it holds the embedding of another view",
    "stale": "it holds an earlier embedding, or one of another encoder",
    "differs": "encoding the view again gives something else",
}


def embedding_fault(store: Store, entry: Entry, kind: str, view: ViewRecord | None) -> Fault:
    """Return the fault of a committed embedding; ``view`` is its row of the plan."""
    path = f"{ARRAYS}{store.arrays.chunk_name(store.key, entry.row)}"
    fault = Fault(kind=kind, path=path, note=NOTES[kind], view=entry.view, row=entry.row)
    if view is None:
        return replace(fault, note=f"{NOTES[kind]}, and the view is in no plan")
    return replace(fault, frame=view.frame, tile=view.tile, variant=view.variant)


def chunk_kind(store: Store, entry: Entry) -> str | None:
    """Return the kind of fault of a committed embedding, None where it is what was committed."""
    try:
        if store.arrays.chunk_size(store.key, entry.row) is None:
            return "missing"
        if view_digest(entry.view, store.arrays.embedding(store.key, entry.row)) == entry.sha256:
            return None
    except BucketError:
        raise
    except StoreError:
        pass
    try:
        return "truncated" if store.arrays.is_cut_short(store.key, entry.row) else "flipped"
    except BucketError:
        raise
    except StoreError:  # the index of its shard
        return "flipped"


def _known_sums(store: Store) -> dict[str, set[str]]:
    """Return every sum any ledger of the store ever gave a view."""
    found: dict[str, set[str]] = {}
    for folder in sorted((store.path / "ledger").glob("*/")):
        ledger = store.ledger(folder.name)
        for view, sums in ledger.history(skip=ledger.damaged()).items():
            found.setdefault(view, set()).update(sums)
    return found


def _whose(store: Store, entry: Entry, entries: dict[str, Entry], sums: dict[str, set[str]]) -> str:
    try:
        array = store.arrays.embedding(store.key, entry.row)
    except BucketError:
        raise
    except StoreError:
        return "flipped"
    if view_digest(entry.view, array) in sums.get(entry.view, ()):
        return "stale"
    others = (other for other in entries.values() if other.view != entry.view)
    return "swapped" if any(view_digest(o.view, array) == o.sha256 for o in others) else "flipped"


def file_fault(store: Store, path: Path, note: str) -> Fault:
    """Return the fault of a file beside the arrays."""
    return Fault(kind="damaged", path=str(path.relative_to(store.path)), note=note)


def array_fault(name: str, note: str) -> Fault:
    """Return the fault of a description or a coordinate, by its name in the arrays."""
    return Fault(kind="damaged", path=f"{ARRAYS}{name}", note=note)


def error_of(check: Callable[[], str | None]) -> str | None:
    """Return what a check says, or what it raises where what it reads is damaged."""
    try:
        return check()
    except BucketError:  # what does not answer is not damaged, and must not be repaired
        raise
    except (RuntimeError, ValueError, AttributeError, OSError) as error:  # StoreError, and what damaged bytes raise
        return str(error)
