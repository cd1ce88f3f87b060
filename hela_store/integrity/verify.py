"""Prove that a store is whole, and encode again what is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.base.locks import embed_lock
from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.embedding.batches import Frames, Group, unique_views, work_of
from hela_store.embedding.encoders import variant_of
from hela_store.embedding.ingest import restore_frames
from hela_store.embedding.pipeline import Pipeline, make_room
from hela_store.embedding.plan import make_plan
from hela_store.embedding.record import (
    DECODER_FILE,
    IMPORTED,
    RECORD_FILE,
    conditions_on,
    has_decoder,
    prepare,
    read_record,
    threads,
)
from hela_store.embedding.truths import seal_truths
from hela_store.errors import RecipeError, StoreError
from hela_store.recipe.codecs import MANTISSA_BITS, max_relative_error, parse_codec
from hela_store.recipe.recipe import Recipe
from hela_store.sam.checkpoints import LoadedSam, load_sam_encoder
from hela_store.sam.devices import pick_device
from hela_store.sam.encoder import encode
from hela_store.store.arrays import COORDINATES
from hela_store.store.records import ViewRecord
from hela_store.store.storage import METADATA
from hela_store.store.store import Store

from .catalog_faults import catalog_faults
from .fast_faults import FAST_SAMPLE, fast_findings
from .label_faults import label_faults
from .run_faults import run_faults
from .store_faults import (
    ARRAYS,
    Fault,
    embedding_fault,
    file_faults,
    frame_faults,
    planned_views,
    truth_faults,
    unclaimed_views,
    view_faults,
)

DEEP_SAMPLE = 8
SEEDS = 1_000_000
ENCODER_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2}
"""Relative error (L2 norms) between devices, before rounding to the stored dtype.

Two ways of attention on one CPU, with nano on 512 px of each data set, are 2.3e-7 apart in float32, at most 2.8e-3 in
bfloat16 and 3.5e-4 in float16, and deeper encoders further. Convolutions in TF32 would give up to 3e-3:
:func:`hela_store.sam.devices.ieee` turns that off.
"""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Describe how to verify.

    Attributes
    ----------
    repair : bool
        Encode again what is wrong, and nothing else.
    deep : bool
        Encode a sample again and compare; needs the weights.
    fast : bool
        Compare tables with their sums, the ledger with the plans, and only a sample of the chunks; lists nothing.
    sample : int or None
        Views of the sample of ``deep``, 8 by default, or of ``fast``, 64 by default.
    seed : int or None
        Which sample ``fast`` draws; another one every time by default.
    cut, adapter : int or None, str or None
        Which embeddings, as of embed; those of the recipe by default.
    device : str
        As of embed.
    cache_dir : Path or None
        Where official checkpoints are fetched to.
    """

    repair: bool = False
    deep: bool = False
    fast: bool = False
    sample: int | None = None
    seed: int | None = None
    cut: int | None = None
    adapter: str | None = None
    device: str = "auto"
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise RecipeError(f"sample is {self.sample}, expected at least 1")
        if self.fast and (self.deep or self.repair):
            raise RecipeError(
                "a fast verification reads a sample and mends nothing; leave --fast out to repair or to encode again"
            )
        if self.seed is not None and not self.fast:
            raise RecipeError("seed chooses the sample of a fast verification; give --fast as well")


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Result of a verification.

    Attributes
    ----------
    key : str
        Encoder key.
    committed, left : int
        Views that count as done, and planned ones that do not.
    unclaimed : int
        Views whose embeddings are there and do not count as done: of an interrupted ``embed``, or of a ledger segment
        that was lost with none after it. A fast verification does not look for them.
    faults : tuple of Fault
        All that is wrong now; also in runs, which no repair makes again, and in the catalog.
    repaired : tuple of Fault
        What was wrong before.
    encoded : int
        Views that were encoded again by the repair.
    compared : tuple of str
        Views of the deep sample.
    worst : float or None
        Largest relative error in it.
    tolerance : float
        What is allowed of it.
    sampled : int or None
        Embeddings that a fast verification read; None where all were read.
    seed : int or None
        What a fast verification drew them by; the same seed draws the same ones.
    """

    key: str
    committed: int
    left: int
    unclaimed: int
    faults: tuple[Fault, ...]
    repaired: tuple[Fault, ...] = ()
    encoded: int = 0
    compared: tuple[str, ...] = ()
    worst: float | None = None
    tolerance: float
    sampled: int | None = None
    seed: int | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"whole": self.whole}


def tolerance(recipe: Recipe) -> float:
    """Return the relative error (L2) that is allowed between a stored embedding and the same view encoded again."""
    codec = parse_codec(recipe.arrays.codec, recipe.arrays.dtype)
    stored = 2.0 ** -(MANTISSA_BITS[recipe.arrays.dtype] + 1) + max_relative_error(codec)
    return ENCODER_TOLERANCE[recipe.encoder.precision] + stored


def verify(store: Store, config: VerifyConfig | None = None, progress: Progress = silent) -> VerifyReport:
    """Compare every committed embedding of the recipe's encoder with the ledger; check files around it and runs.

    Raises
    ------
    StoreError
        Nothing was ingested, ``ingest/`` itself is damaged, or, to repair, another process embeds into the store.
    CheckpointError
        The weights are needed and cannot be used.
    RecipeError
        Views are to be encoded again whose embeddings are another tool's.
    """
    config = config or VerifyConfig()
    if config.deep:
        store.recipe.encoder.check_encodes()
    store = variant_of(store, config.cut, config.adapter)
    # what the bucket has is to be verified, not the copies of it
    # the arrays hold labels as ingested
    store = Store(store.path, replace(store.recipe, arrays=replace(store.recipe.arrays, cache_mib=0)), 0)
    if config.fast:
        return _verify_fast(store, config, progress)
    with embed_lock(store.path) if config.repair else contextlib.nullcontext():
        rng = generator("deep", time.time_ns())
        found, errors, views = _find(store, config, rng, progress)
        before, encoded = found, 0
        if config.repair and found:
            encoded = _repair(store, found, config, progress)
            store = Store(store.path, store.recipe, 0)
            found, errors, views = _find(store, config, rng, progress)
    committed = {} if any(fault.path.startswith("ledger/") for fault in found) else store.committed()
    return VerifyReport(
        key=store.key,
        committed=len(committed),
        left=len(views.keys() - committed.keys()),
        unclaimed=len(unclaimed_views(store, views, committed)) if committed else 0,
        faults=(*found, *run_faults(store.path), *catalog_faults(store.path)),
        repaired=tuple(fault for fault in before if fault not in found),
        encoded=encoded,
        compared=tuple(errors),
        worst=max(errors.values(), default=None),
        tolerance=tolerance(store.recipe),
    )


def _verify_fast(store: Store, config: VerifyConfig, progress: Progress) -> VerifyReport:
    seed = time.time_ns() % SEEDS if config.seed is None else config.seed
    found = fast_findings(store, config.sample or FAST_SAMPLE, generator("fast", seed), progress)
    return VerifyReport(
        key=store.key,
        committed=found.committed,
        left=found.left,
        unclaimed=0,
        faults=found.faults,
        tolerance=tolerance(store.recipe),
        sampled=found.sampled,
        seed=seed,
    )


def _find(
    store: Store, config: VerifyConfig, rng: np.random.Generator, progress: Progress
) -> tuple[list[Fault], dict[str, float], dict[str, ViewRecord]]:
    """Return what is wrong, the errors of the deep sample, and the planned views, none where a plan is damaged."""
    found = list(file_faults(store))
    errors: dict[str, float] = {}
    views = {} if any(fault.path.startswith("plan/") for fault in found) else planned_views(store)
    if not any(fault.path.startswith(("plan/", ARRAYS)) for fault in found):
        found += frame_faults(store, progress)
        found += label_faults(store)
        found += truth_faults(store, views, progress)
        found += view_faults(store, views, progress)
        if config.deep:
            skip = {fault.view for fault in found}
            faults, errors = _deep(store, {n: v for n, v in views.items() if n not in skip}, config, rng, progress)
            found += faults
    return found, errors, views


def _deep(
    store: Store, views: Mapping[str, ViewRecord], config: VerifyConfig, rng: np.random.Generator, progress: Progress
) -> tuple[list[Fault], dict[str, float]]:
    ledger = store.ledger()
    entries = ledger.entries(skip=ledger.damaged())
    whole = [entry for name, entry in entries.items() if name in views]
    chosen = [whole[i] for i in sorted(rng.permutation(len(whole))[: config.sample or DEEP_SAMPLE])]
    sam, frames = _load(store, config, progress), Frames(store)
    faults, errors = [], {}
    for entry in progress(chosen, total=len(chosen), what="encode again"):
        pixels = frames.pixels(views[entry.view])[None]
        now = encode(sam.encoder, pixels, store.recipe.encoder.precision, store.recipe.encoder.cut)[0].numpy()
        there = store.arrays.embedding(store.key, entry.row).astype(np.float32)
        errors[entry.view] = float(np.linalg.norm(now - there) / np.linalg.norm(now))
        if not errors[entry.view] <= tolerance(store.recipe):
            faults.append(embedding_fault(store, entry, "differs", views[entry.view]))
    return faults, errors


def _repair(store: Store, faults: list[Fault], config: VerifyConfig, progress: Progress) -> int:
    """Put right what can be; return how many views were encoded."""
    _repair_files(store, faults)
    store = Store(store.path, store.recipe, 0)
    restore_frames(store, {fault.frame for fault in faults if fault.path.startswith(f"{ARRAYS}frames/")})
    make_plan(store)
    store.seal()
    make_room(store)
    store.forget_lost_plans()
    seal_truths(store, progress)
    views, ledger = planned_views(store), store.ledger()
    _repair_truth(store, {fault.row for fault in faults if not fault.view}, views.values())
    if any(fault.path.startswith(("plan/", ARRAYS)) and not fault.view for fault in faults):
        faults = [*faults, *view_faults(store, views, progress)]
    bad = {fault.view for fault in faults if fault.view}
    ledger.forget(bad - set(views))
    committed = store.committed()
    bad = (bad & set(views)) | unclaimed_views(store, views, committed)
    if store.recipe.encoder.source:
        _repair_imported(store, bad, config, progress)
        return 0
    device = pick_device(config.device)
    sam = _load(store, config, progress)
    record, _ = prepare(store, sam, conditions_on(device), None)
    work = _work(store, set(views) - bad, record.batch)
    pipeline = Pipeline(store, sam, compiled=record.compiled)
    with threads(record.threads), contextlib.closing(pipeline.run(work)) as commits:
        encoded = sum(1 for _ in progress(commits, total=sum(len(todo) for _, todo in work), what="repair"))
    store.gather()
    return encoded


def _repair_imported(store: Store, bad: set[str], config: VerifyConfig, progress: Progress) -> None:
    """Make the decoder and its record again; embeddings are in the files of the tool they come from."""
    encoder = store.recipe.encoder
    if read_record(store) is None or not has_decoder(store):
        own = store.with_encoder(source="")
        prepare(store, _load(own, config, progress), IMPORTED, 1)
    if bad:
        raise StoreError(
            f"{len(bad)} embeddings of {store.key} are damaged, and nothing here encodes as {encoder.source} does; "
            f"give `hela-store import {encoder.source}` again, which brings in those and no others"
        )


def _repair_truth(store: Store, rows: set[int], views: Iterable[ViewRecord]) -> None:
    frames, entries = Frames(store), []
    for view in views:
        if view.variant and view.row in rows:
            entries.append(store.truths.write(view.view, view.row, *frames.truth(view)))
    store.truths.ledger.commit(entries)


def _work(store: Store, good: set[str], batch: int) -> list[Group]:
    """Return all but the good views in the groups they were first encoded in: those of their own plan."""
    work: list[Group] = []
    seen = set(good)
    for plan in [store.views_table(), *store.all_plans()]:
        views = unique_views(plan)
        done = np.array([view in seen for view in views["view"].to_pylist()], bool)
        part = work_of(views, done, batch, None)
        seen |= set(part.ids)
        work += part
    return work


def _repair_files(store: Store, faults: list[Fault]) -> None:
    """Remove what can be made again from the plan, the recipe and the weights."""
    storage = store.arrays.storage
    for fault in faults:
        if fault.path.startswith(ARRAYS):
            _repair_arrays(store, fault)
        elif fault.path.startswith(("ledger/", "truths/")):
            store.ledger().clear(store.path / fault.path)
        elif _can_be_made_again(store, fault):
            (store.path / fault.path).unlink(missing_ok=True)
    for fault in faults:
        name = fault.path.removeprefix(ARRAYS)
        # arrays, three folders down, are made again by the plan and the frames
        if name != fault.path and name.endswith(METADATA) and name.count("/") < 3 and storage.size(name) is None:
            store.arrays.restore_group(name.rpartition("/")[0])


def _can_be_made_again(store: Store, fault: Fault) -> bool:
    record = (store.encoder_folder() / RECORD_FILE, store.encoder_folder() / DECODER_FILE)
    return store.path / fault.path in record or (not fault.view and fault.path.startswith("plan/"))


def _repair_arrays(store: Store, fault: Fault) -> None:
    name = fault.path.removeprefix(ARRAYS)
    coordinates = [f"embeddings/{store.key}/{coordinate}" for coordinate in COORDINATES]
    whole = next((each for each in coordinates if name == each or name.rpartition("/")[0] == each), None)
    if whole is not None or (name.rpartition("/")[2] == METADATA and not _is_foreign(store, name)):
        store.arrays.storage.remove(whole or name)


def _is_foreign(store: Store, name: str) -> bool:
    """Whether an array belongs to another encoder key, whose recipe is not known here."""
    parts = name.split("/")
    return parts[0] == "embeddings" and len(parts) == 4 and parts[1] != store.key


def _load(store: Store, config: VerifyConfig, progress: Progress) -> LoadedSam:
    device = pick_device(config.device)
    return load_sam_encoder(
        store.recipe.encoder, device, base=store.path, cache_dir=config.cache_dir, progress=progress
    )
