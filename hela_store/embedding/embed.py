"""Ingest, plan, encode, commit: what is missing and nothing else.

A killed process leaves at most chunks that nobody believes in, and the next one encodes those again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.augment.ranges import MOST_UNASKED
from hela_store.augment.variant import DAMPED_TOO_OFTEN
from hela_store.base.aliases import BoolArray
from hela_store.base.files import explain_os_errors
from hela_store.base.locks import clear_arrays, embed_lock
from hela_store.base.progress import Progress, silent
from hela_store.base.text import percent
from hela_store.errors import HelaError, RecipeError
from hela_store.images.geometry import tile_rectangles
from hela_store.recipe.codecs import parse_codec
from hela_store.recipe.recipe import UNTRAINED
from hela_store.recipe.splits import BLOCKS, Block, assign, members
from hela_store.runs.leftovers import clear_run_leftovers
from hela_store.store.groups import entry_groups
from hela_store.store.store import Store
from hela_store.store.tables import PLAN_SCHEMA

from .batches import Work, done_of, unique_views, work_of
from .encoders import variant_of
from .plan import build_plan, damped_share, make_plan, varied_frames

if TYPE_CHECKING:
    import torch

    from hela_store.sam.checkpoints import LoadedSam

    from .record import EncoderRecord

WorkOf = Callable[[int, int | None], Work]
"""From batch and limit to what there is to encode."""
SIZE_SAMPLE = 32
LEFTOVERS = (
    "encoders/*/.*",
    "staged/*/.*",
    "plan/.*.parquet.*",
    "ingest/.*.parquet.*",
    "ledger/*/.*.jsonl.*",
    "truths/.*.jsonl.*",
    ".sums.json.*",
)
"""Temporary files of a process that was killed while writing, beside those in the arrays."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Describe how to embed; what to embed is in the recipe.

    Attributes
    ----------
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    precision : str or None
        Instead of the recipe's; embeddings then get a key of their own.
    cut : int or None
        Store the tokens after so many blocks instead of embeddings, under a key of their own: what a fine-tuning that
        adapts the blocks behind them reads.
    adapter : str or None
        A fine-tuning run that adapted the encoder (id, its beginning or ``"latest"``): embed with that encoder, under a
        key of its own.
    splits : tuple of str
        Only views of these blocks, of ``"train"``, ``"val"`` and ``"test"``; all views, of gaps too, where empty. Of a
        batch that holds others, too, all are encoded and these committed.
    limit : int or None
        Stop after this many views.
    batch : int or None
        Views encoded together; None is 4 with CUDA and 1 elsewhere; on a CPU more is no faster. On the CPU the first
        embed of a key decides it for good, because it changes the last bits of the values.
    compile : bool
        Run the encoder through ``torch.compile``; the first embed of a key decides it, as it changes the last bits.
    dry_run : bool
        Write nothing and encode nothing; say what there is to do.
    yes : bool
        Embed more than 100 variants of every view, too.
    cache_dir : Path or None
        Where official checkpoints are fetched to.
    workers : int or None
        Processes on this machine to encode in; None is this one.
    readers : int or None
        Processes that read and augment views for this one, for a GPU that a thread (None) would keep waiting. The
        embeddings are the same. A script that starts processes needs ``if __name__ == "__main__":``.
    scheduler : str or None
        Address of a Dask scheduler whose workers encode, e.g. ``"tcp://node1:8786"``; they see the store's folder under
        the same path.
    """

    device: str = "auto"
    precision: str | None = None
    cut: int | None = None
    adapter: str | None = None
    splits: tuple[str, ...] = ()
    limit: int | None = None
    batch: int | None = None
    compile: bool = False
    dry_run: bool = False
    yes: bool = False
    cache_dir: Path | None = None
    workers: int | None = None
    readers: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "batch", "workers", "readers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}, expected at least 1")
        if self.workers is not None and self.scheduler is not None:
            raise RecipeError("workers are to be started here and a scheduler has its own; give one of the two")
        if self.readers is not None and (self.workers is not None or self.scheduler is not None):
            raise RecipeError("readers serve the encoder of this process, and workers read for themselves; give one")
        for split in self.splits:
            if split not in BLOCKS:
                raise RecipeError(f"splits holds {split!r}, expected some of {', '.join(BLOCKS)}")
        if self.cut == 0:
            raise RecipeError("cut is 0, so there is nothing to store: `hela-store finetune --cut 0` reads the frames")


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """Describe what an embed did, or a dry run would do.

    Attributes
    ----------
    key : str
        Encoder key.
    planned, done_before, done_now, left : int
        Views asked for, committed before, committed now, still to do.
    variants : int
        Augmented ones among the planned: what storing them costs in passes. Made on the fly they would cost one a
        training step, so from as many steps on, over all runs, storing is cheaper.
    seconds : float or None
        Spent encoding and writing; of a dry run what is expected for the views left, None where nothing is known yet.
    bytes_left : int
        Expected on disk for the views left; before the first embed an upper bound.
    blank : tuple of str
        Frames asked for that hold one value only; they are embedded all the same.
    adapter, adapter_sha256 : str
        Of the encoder; with both in ``store.toml`` every later command reads these embeddings. Empty for none.
    notes : tuple of str
        What a user should know: an untrained encoder, another torch than the first embed's.
    """

    key: str
    planned: int
    done_before: int
    done_now: int
    left: int
    seconds: float | None
    bytes_left: int
    variants: int = 0
    blank: tuple[str, ...] = ()
    adapter: str = ""
    adapter_sha256: str = ""
    notes: tuple[str, ...] = ()


def embed(store: Store, config: EmbedConfig | None = None, progress: Progress = silent) -> EmbedReport:
    """Ingest new frames, plan their views, encode and commit what is missing.

    Running it again does what is left. A keyboard interrupt is raised again once what is being written is committed;
    what is still being encoded is abandoned.

    Raises
    ------
    DatasetError, RecipeError, CheckpointError, SplitError
        The data, the recipe or the weights cannot be used, or a block asked for is empty; nothing was encoded.
    StoreError
        Another process embeds into this store, a frame changed since it was ingested, no space, no permission.
    ClusterError
        A scheduler cannot be reached or is gone, or its workers cannot do the work.
    """
    config = config or EmbedConfig()
    store.recipe.encoder.check_encodes()
    given = store
    if config.precision is not None:
        store = store.with_encoder(precision=config.precision)
    store = variant_of(store, config.cut, config.adapter)
    parse_codec(store.recipe.arrays.codec, store.recipe.arrays.dtype)
    if config.dry_run:
        return _dry_run(store, config, progress)
    from .ingest import ingest

    _check_variants(store, config)
    with embed_lock(store.path):
        clear_leftovers(store.path)
        ingested = ingest(store, progress)
        given.follow_labels(store.labels_version)
        plan = plan_all(store, progress)
        frames = _frames_of(store.blocks(), config.splits) if config.splits else None
        report = _embed_views(store, plan, frames, config, progress)
        store.gather()
        return replace(report, notes=(*ingested.notes, *report.notes))


def plan_all(store: Store, progress: Progress) -> pa.Table:
    """Plan the views of all ingested frames and make room for them; return :func:`make_plan`'s table.

    Whoever calls holds the store's embed lock. Raises StoreError as :func:`embed`.
    """
    from .pipeline import make_room
    from .truths import seal_truths

    store.seal()
    appends = store.has_all_plans()
    plan = make_plan(store, progress)
    make_room(store, appends=appends)
    store.gather()  # what an interrupted job left
    store.forget_lost_plans()
    seal_truths(store, progress)
    return plan


def _check_variants(store: Store, config: EmbedConfig) -> None:
    asked = store.recipe.augment.variants
    if asked > MOST_UNASKED and not config.yes:
        raise RecipeError(
            f"augment.variants is {asked}: {asked} encoder passes for every view; give --yes if that is meant, or "
            f"{MOST_UNASKED} or fewer (`hela-store embed --dry-run` says what it costs)"
        )


def _frames_of(blocks: Mapping[str, Block], splits: Sequence[str]) -> set[str]:
    return {frame for split in splits for frame in members(blocks, split)}


def _asked(plan: pa.Table, views: pa.Table, frames: set[str] | None) -> BoolArray:
    """Return which of a plan's unique views are those of some frames (None: all), whichever frame lists them."""
    if frames is None:
        return np.ones(len(views), bool)
    rows = plan["row"].filter(pc.is_in(plan["frame"], pa.array(frames, pa.string())))
    return np.isin(views["row"].to_numpy(), rows.to_numpy())


def _embed_views(
    store: Store, plan: pa.Table, frames: set[str] | None, config: EmbedConfig, progress: Progress
) -> EmbedReport:
    from .record import has_decoder

    views = unique_views(plan)
    asked, before = _asked(plan, views, frames), done_of(store, views)
    planned, committed = int(asked.sum()), int((before & asked).sum())
    notes: tuple[str, ...] = ()
    done, seconds = 0, 0.0
    if committed < planned or not has_decoder(store):
        encode = _encode_here if config.workers is None and config.scheduler is None else _encode_on_cluster
        done, seconds, notes = encode(store, partial(work_of, views, before | ~asked), config, progress)
    return EmbedReport(
        key=store.key,
        planned=planned,
        done_before=committed,
        done_now=done,
        left=planned - committed - done,
        seconds=seconds,
        bytes_left=bytes_each(store) * (planned - committed - done),
        variants=_variants(views.filter(asked)),
        blank=_blank(store, frames),
        adapter=store.recipe.encoder.adapter,
        adapter_sha256=store.recipe.encoder.adapter_sha256,
        notes=(*notes, *_damping_note(plan)),
    )


Encoded = tuple[int, float, tuple[str, ...]]
"""Views that were committed, seconds, and what a user should know."""


def _encode_here(store: Store, work_of: WorkOf, config: EmbedConfig, progress: Progress) -> Encoded:
    from hela_store.sam.devices import pick_device

    from .pipeline import Pipeline
    from .record import conditions_on, prepare, threads

    device = pick_device(config.device)
    sam = _load(store, device, config, progress)
    record, notes = prepare(store, sam, conditions_on(device), config.batch, config.compile)
    work = work_of(record.batch, config.limit)
    pipeline = Pipeline(store, sam, compiled=record.compiled, readers=config.readers or 0)
    with threads(record.threads), contextlib.closing(pipeline.run(work)) as commits:
        done, seconds = _count(store, record, progress(commits, total=work.size, what="embed"), work)
    return done, seconds, (*_notes_of(sam), *notes)


def _encode_on_cluster(store: Store, work_of: WorkOf, config: EmbedConfig, progress: Progress) -> Encoded:
    from .cluster import cluster
    from .record import prepare

    asked = {name: getattr(config, name) for name in ("workers", "scheduler", "device", "cache_dir")}
    with contextlib.ExitStack() as at_end, cluster(store, progress=progress, **asked) as workers:
        at_end.callback(clear_arrays, store.path)  # workers may have been killed, and nobody holds a note of that
        sam = _load(store, "cpu", config, progress)
        record, notes = prepare(store, sam, workers.conditions, config.batch, config.compile)
        work, what = work_of(record.batch, config.limit), f"embed ({workers.dashboard})"
        with contextlib.closing(workers.commits(store, record, work)) as commits:
            done, seconds = _count(store, record, progress(commits, total=work.size, what=what), work)
        others = sorted(workers.notes - set(notes))
    return done, seconds, (*_notes_of(sam), *notes, *others)


def _load(store: Store, device: str | torch.device, config: EmbedConfig, progress: Progress) -> LoadedSam:
    from hela_store.sam.checkpoints import load_sam_encoder

    recipe = store.recipe.encoder
    return load_sam_encoder(recipe, device, base=store.path, cache_dir=config.cache_dir, progress=progress)


def _count(store: Store, record: EncoderRecord, commits: Iterable[str], work: Work) -> tuple[int, float]:
    """Let the work be done; return how many views were committed in how many seconds, and keep the speed."""
    from .record import write_record

    start, done = time.monotonic(), 0
    try:
        for _ in commits:
            done += 1
    except HelaError as error:
        so_far = f"{done} of {work.size} views were committed before, {work.size - done} are left"
        raise type(error)(f"{error}; {so_far}") from error
    seconds = time.monotonic() - start
    if done:
        write_record(store, replace(record, seconds_per_view=seconds / done * work.size / work.passes))
    return done, seconds


def _notes_of(sam: LoadedSam) -> tuple[str, ...]:
    untrained = ("nano is untrained: its weights are random, from a fixed seed",) if sam.sha256 == UNTRAINED else ()
    return (*untrained, *sam.notes)


def clear_leftovers(path: Path) -> None:
    """Remove what a killed process left half-written; whoever calls holds the store's embed lock."""
    with explain_os_errors(f"clearing leftovers in {path}"):
        for pattern in LEFTOVERS:
            for leftover in path.glob(pattern):
                leftover.unlink(missing_ok=True)
    clear_run_leftovers(path)


def _dry_run(store: Store, config: EmbedConfig, progress: Progress) -> EmbedReport:
    from hela_store.datasets import open_dataset

    from .ingest import in_free_times
    from .record import read_record

    reader = open_dataset(store.recipe.dataset, store.path, progress)
    known = store.known_frames()
    keys = {record.frame: (record.frame, record.sequence, record.time) for record in known.values()}
    later = in_free_times((e for e in reader.entries if e.id not in keys), known.values(), store.recipe.dataset.stills)
    entries = {entry.id: entry for entry in later}
    keys |= {entry.id: (entry.id, entry.sequence, entry.time) for entry in later}
    groups = cache(partial(entry_groups, store.recipe, later, known))
    views = plan = PLAN_SCHEMA.empty_table()
    notes: tuple[str, ...] = ()
    if known:
        planned = store.plan_path().exists()
        plan = store.views_table() if planned else build_plan(store, progress)
        views, notes = unique_views(plan), _damping_note(plan)
    frames = None
    if config.splits:
        blocks = assign(store.recipe.split, [*keys.values()], store.recipe.dataset.stills, groups())
        frames = _frames_of(blocks, config.splits)
    views = views.filter(_asked(plan, views, frames))
    tile, overlap = store.recipe.views.tile, store.recipe.views.overlap
    varied = varied_frames(store.recipe, [*keys.values()], groups)
    fresh = {frame: entry for frame, entry in entries.items() if frames is None or frame in frames}
    tiles = {frame: len(tile_rectangles(entry.image.shape, tile, overlap)) for frame, entry in fresh.items()}
    more = sum(count * store.recipe.augment.variants for frame, count in tiles.items() if frame in varied)
    new = sum(tiles.values()) + more
    done = int(done_of(store, views).sum())
    record = read_record(store)
    each = record.seconds_per_view if record else None
    left = len(views) + new - done
    return EmbedReport(
        key=store.key,
        planned=len(views) + new,
        done_before=done,
        done_now=0,
        left=left,
        seconds=None if each is None else each * left,
        bytes_left=bytes_each(store) * left,
        variants=_variants(views) + more,
        blank=_blank(store, frames) if known else (),
        adapter=store.recipe.encoder.adapter,
        adapter_sha256=store.recipe.encoder.adapter_sha256,
        notes=notes,
    )


def _variants(views: pa.Table) -> int:
    return int(pc.sum(pc.greater(views["variant"], 0)).as_py() or 0)


def _damping_note(plan: pa.Table) -> tuple[str, ...]:
    share = damped_share(plan)
    if share <= DAMPED_TOO_OFTEN:
        return ()
    return (
        f"{percent(share, 0)} of the elastic variants would have folded and were damped; lower augment.elastic.alpha, "
        "or raise its sigma",
    )


def bytes_each(store: Store) -> int:
    """Return the mean size on disk of the latest views of a store; before the first embed an upper bound."""
    rows = store.ledger().table()["row"][-SIZE_SAMPLE:].to_pylist()
    found = (store.arrays.chunk_size(store.key, row) for row in rows)
    sizes = [size for size in found if size is not None]
    if sizes:
        return sum(sizes) // len(sizes)
    return int(np.prod(store.recipe.encoder.stored_shape)) * np.dtype(store.recipe.arrays.dtype).itemsize


def _blank(store: Store, asked: set[str] | None) -> tuple[str, ...]:
    frames = store.frames_table()
    blank = frames.filter(frames["is_blank"])["frame"].to_pylist()
    return tuple(frame for frame in blank if asked is None or frame in asked)
