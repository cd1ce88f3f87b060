"""Ingest, plan, encode, commit: what is missing and nothing else.

A killed process leaves at most chunks that nobody believes in, and the next one encodes those again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from .augment.ranges import MOST_UNASKED
from .augment.variant import DAMPED_TOO_OFTEN
from .codecs import parse_codec
from .errors import RecipeError
from .files import explain_os_errors
from .geometry import tile_rectangles
from .lock import embed_lock
from .plan import build_plan, damped_share, make_plan, varied_frames
from .progress import Progress, silent
from .store import Store
from .tuned import variant_of
from .work import View, done_of, unique_views, work_of

SIZE_SAMPLE = 32
LEFTOVERS = (
    "arrays.zarr/**/*.partial",
    "arrays.zarr/**/.*",
    "encoders/*/.*",
    "plan/.*.parquet.*",
    "ingest/.*.parquet.*",
    "ledger/*/.*.jsonl.*",
)
"""Temporary files of a process that was killed while writing."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How to embed; what to embed is in the recipe.

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
    limit : int or None
        Stop after this many views.
    batch : int or None
        Views encoded together; None is 1 on the CPU, where more is no faster, and 4 elsewhere. On the CPU the first
        embed of a key decides it for good, because it changes the last bits of the values.
    dry_run : bool
        Write nothing and encode nothing; say what there is to do.
    yes : bool
        Embed more than 100 variants of every view, too.
    cache_dir : Path or None
        Where official checkpoints are fetched to.
    """

    device: str = "auto"
    precision: str | None = None
    cut: int | None = None
    adapter: str | None = None
    limit: int | None = None
    batch: int | None = None
    dry_run: bool = False
    yes: bool = False
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}, expected at least 1")
        if self.cut == 0:
            raise RecipeError("cut is 0, so there is nothing to store: `hela-store finetune --cut 0` reads the frames")


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """What an embed did, or a dry run would do.

    Attributes
    ----------
    key : str
        Encoder key.
    planned, done_before, done_now, left : int
        Views of the plan, committed before, committed now, still to do; each is one pass of the encoder.
    variants : int
        Augmented ones among the planned: what storing them costs in passes. Made on the fly they would cost one a
        training step, so from as many steps on, over all runs, storing is cheaper.
    seconds : float or None
        Spent encoding and writing; of a dry run what is expected for the views left, None where nothing is known yet.
    bytes_left : int
        Expected on disk for the views left; before the first embed an upper bound.
    blank : tuple of str
        Frames that hold one value only; they are embedded all the same.
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
    """Ingest new frames, plan their views, encode and commit what is missing, and bring the catalog up to date.

    Running it again does what is left. A keyboard interrupt is raised again once the batch being written is committed;
    a batch still being encoded is abandoned.

    Raises
    ------
    DatasetError, RecipeError, CheckpointError
        The data, the recipe or the weights cannot be used; nothing was encoded.
    StoreError
        Another process embeds into this store, a frame changed since it was ingested, no space, no permission.
    """
    config = config or EmbedConfig()
    if config.precision is not None:
        store = store.with_encoder(precision=config.precision)
    store = variant_of(store, config.cut, config.adapter)
    parse_codec(store.recipe.arrays.codec, store.recipe.arrays.dtype)
    if config.dry_run:
        return _dry_run(store, progress)
    from . import catalog
    from .ingest import ingest
    from .pipeline import make_room

    _check_variants(store, config)
    with embed_lock(store.path):
        _sweep(store.path)
        ingest(store, progress)
        views = unique_views(make_plan(store, progress))
        make_room(store)
        report = _embed_views(store, views, config, progress)
    catalog.index(store.path)
    return report


def _check_variants(store: Store, config: EmbedConfig) -> None:
    asked = store.recipe.augment.variants
    if asked > MOST_UNASKED and not config.yes:
        raise RecipeError(
            f"augment.variants is {asked}: {asked} encoder passes for every view; give --yes if that is meant, or "
            f"{MOST_UNASKED} or fewer (`hela-store embed --dry-run` says what it costs)"
        )


def _embed_views(store: Store, views: list[View], config: EmbedConfig, progress: Progress) -> EmbedReport:
    from .encoder_record import has_decoder, prepare, threads, write_record
    from .pipeline import commit_all
    from .sam.checkpoints import UNTRAINED, load_sam_encoder
    from .sam.encoder import pick_device

    committed = done_of(store, views)
    device = pick_device(config.device)
    notes: tuple[str, ...] = ()
    done, seconds = 0, 0.0
    if len(committed) < len(views) or not has_decoder(store):
        sam = load_sam_encoder(
            store.recipe.encoder, device, base=store.path, cache_dir=config.cache_dir, progress=progress
        )
        record, notes = prepare(store, sam, device, config.batch)
        if sam.sha256 == UNTRAINED:
            notes = ("nano is untrained: its weights are random, from a fixed seed", *notes)
        work = work_of(views, committed, record.batch, config.limit)
        start = time.monotonic()
        with threads(record.threads), contextlib.closing(commit_all(store, sam, work)) as commits:
            done = sum(1 for _ in progress(commits, total=sum(len(todo) for _, todo in work), what="embed"))
        seconds = time.monotonic() - start
        if done:
            write_record(store, replace(record, seconds_per_view=seconds / done))
    return EmbedReport(
        key=store.key,
        planned=len(views),
        done_before=len(committed),
        done_now=done,
        left=len(views) - len(committed) - done,
        seconds=seconds,
        bytes_left=_bytes_each(store) * (len(views) - len(committed) - done),
        variants=_variants(views),
        blank=_blank(store),
        adapter=store.recipe.encoder.adapter,
        adapter_sha256=store.recipe.encoder.adapter_sha256,
        notes=(*notes, *_damping_note(store.views_table())),
    )


def _sweep(path: Path) -> None:
    with explain_os_errors(f"clearing leftovers in {path}"):
        for pattern in LEFTOVERS:
            for leftover in path.glob(pattern):
                leftover.unlink(missing_ok=True)


def _dry_run(store: Store, progress: Progress) -> EmbedReport:
    from .datasets import open_dataset
    from .encoder_record import read_record

    views: list[View] = []
    ingested: set[str] = set()
    notes: tuple[str, ...] = ()
    if any((store.path / "ingest").glob("frames-*.parquet")):
        planned = store.plan_path().exists()
        plan = store.views_table() if planned else build_plan(store, progress)
        views, notes = unique_views(plan), _damping_note(plan)
        ingested = set(store.frames_table()["frame"].to_pylist())
    tile, overlap = store.recipe.views.tile, store.recipe.views.overlap
    entries = {f"{e.sequence}/{e.name}": e for e in open_dataset(store.recipe.dataset, store.path).entries}
    varied = varied_frames(store.recipe, [(frame, e.sequence, e.time) for frame, e in entries.items()])
    tiles = {f: len(tile_rectangles(e.image.shape, tile, overlap)) for f, e in entries.items() if f not in ingested}
    more = sum(count * store.recipe.augment.variants for frame, count in tiles.items() if frame in varied)
    new = sum(tiles.values()) + more
    done = len(done_of(store, views))
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
        bytes_left=_bytes_each(store) * left,
        variants=_variants(views) + more,
        blank=_blank(store) if ingested else (),
        adapter=store.recipe.encoder.adapter,
        adapter_sha256=store.recipe.encoder.adapter_sha256,
        notes=notes,
    )


def _variants(views: list[View]) -> int:
    return sum(view["variant"] > 0 for view in views)


def _damping_note(plan: pa.Table) -> tuple[str, ...]:
    share = damped_share(plan)
    if share <= DAMPED_TOO_OFTEN:
        return ()
    return (
        f"{share:.0%} of the elastic variants would have folded and were damped; lower augment.elastic.alpha, or raise "
        "its sigma",
    )


def _bytes_each(store: Store) -> int:
    rows = list(store.committed().values())[-SIZE_SAMPLE:]
    sizes = [path.stat().st_size for row in rows if (path := store.arrays.chunk_path(store.key, row)).exists()]
    if sizes:
        return sum(sizes) // len(sizes)
    return int(np.prod(store.recipe.encoder.stored_shape)) * np.dtype(store.recipe.arrays.dtype).itemsize


def _blank(store: Store) -> tuple[str, ...]:
    frames = store.frames_table()
    return tuple(frames.filter(frames["is_blank"])["frame"].to_pylist())
