"""Say which views will be embedded: durable before the first one is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.augment.variant import draw_variant, parse_variant
from hela_store.base.files import digest, fsync_path
from hela_store.base.parquet import write_parquet
from hela_store.base.progress import Progress, silent
from hela_store.images.geometry import Rect, tile_rectangles
from hela_store.images.normalise import limits
from hela_store.recipe.recipe import Recipe
from hela_store.recipe.splits import FrameKey, assign
from hela_store.store.tables import PLAN_SCHEMA

if TYPE_CHECKING:
    from hela_store.store.store import Store

VIEW_ID_DIGITS = 24
AS_ACQUIRED = "{}"


def view_id(frame_sha256: str, lo: float, hi: float, rect: Rect, params: str = AS_ACQUIRED) -> str:
    """Return a view's id: all that decides what it shows, digested.

    Parameters
    ----------
    frame_sha256 : str
        Of the frame's pixels.
    lo, hi : float
        Normalisation limits, counts.
    rect : (x0, y0, width, height) px, frame
    params : str
        The variant's parameters as JSON with sorted keys.
    """
    return digest("view", frame_sha256, float(lo), float(hi), *(int(v) for v in rect), params)[:VIEW_ID_DIGITS]


def make_plan(store: Store, progress: Progress = silent) -> pa.Table:
    """Write down, durably, every view of the recipe over all ingested frames.

    A view that an earlier plan has keeps its row; new ones are appended after the largest row there is.

    Returns
    -------
    pyarrow.Table
        Columns as in ``stores/README.md``, frame by frame, tile by tile.

    Raises
    ------
    StoreError
        Nothing was ingested; no space, no permission.
    """
    path = store.plan_path()
    if not path.exists():
        base, planned = _plan_to_add_to(store)
        if base:
            path = path.with_name(f"{path.stem}.{base}.parquet")
        write_parquet(path, _views_from(store, planned, progress))
        fsync_path(path.parent.parent)
        store.sums.add([path])
    return store.views_table()


def build_plan(store: Store, progress: Progress = silent) -> pa.Table:
    """Return what :func:`make_plan` would return, and write nothing."""
    base, planned = _plan_to_add_to(store)
    new = _views_from(store, planned, progress)
    return pa.concat_tables([store.read_plan(path) for path in store.plan_files(base)] + [new])


def _plan_to_add_to(store: Store) -> tuple[str, int]:
    """Return the name of the longest plan of the recipe over the first of the frames, and their number; or "" and 0."""
    augment, path = store.recipe.augment, store.plan_path()
    if augment.variants and augment.frames == "train":
        return "", 0  # more frames move the blocks
    if any(path.parent.glob(f"{path.stem}.*.parquet")):
        return "", 0  # it was there, and what it adds to was lost
    found = ((name, count) for count, name in reversed(store.plan_names().items()) if store.plan_files(name))
    return next(found, ("", 0))


def _views_from(store: Store, first: int, progress: Progress) -> pa.Table:
    """Return the views of all frames from the ``first``; those in no plan get the rows after the largest there is."""
    recipe, metadata = store.recipe, plan_metadata(store.recipe)
    frames = store.frames_as_ingested().slice(first)
    known, drawn = _frame_limits(store, frames, metadata), _drawn_before(store)
    every = store.frames_table()
    keys = (every[name].to_pylist() for name in ("frame", "sequence", "time")) if recipe.augment.variants else ()
    varied = varied_frames(recipe, list(zip(*keys, strict=True)), store.groups)
    rows: dict[str, list[Any]] = {name: [] for name in PLAN_SCHEMA.names if name != "row"}
    for frame in progress(_dicts(frames), total=len(frames), what="plan"):
        lo, hi = known.get(frame["frame"]) or _measure(store, frame)
        shape_rc = (frame["height"], frame["width"])
        for tile, rect in enumerate(tile_rectangles(shape_rc, recipe.views.tile, recipe.views.overlap)):
            for variant in range(1 + (recipe.augment.variants if frame["frame"] in varied else 0)):
                which = (frame["frame"], tile, variant, rect[3], rect[2])
                seed, params = drawn.get(which) or _draw(recipe, *which)
                view = view_id(frame["sha256"], lo, hi, rect, params)
                values = (view, frame["frame"], tile, variant, *rect, lo, hi, seed, params)
                for name, value in zip(rows, values, strict=True):
                    rows[name].append(value)
    taken, first_free = _taken_rows(store, rows["view"])
    free = itertools.count(first_free)
    for view in rows["view"]:
        if view not in taken:
            taken[view] = next(free)
    table = pa.table(rows | {"row": [taken[view] for view in rows["view"]]}, schema=PLAN_SCHEMA)
    return table.replace_schema_metadata(metadata)


def varied_frames(
    recipe: Recipe, frames: Sequence[FrameKey], groups: Callable[[], Mapping[str, str] | None]
) -> set[str]:
    """Return the ids of the frames whose views get variants; raises as :func:`hela_store.recipe.splits.assign`."""
    if not recipe.augment.variants:
        return set()
    if recipe.augment.frames == "all":
        return {frame for frame, _, _ in frames}
    blocks = assign(recipe.split, frames, recipe.dataset.stills, groups())
    return {frame for frame, block in blocks.items() if block == "train"}


def count_views(recipe: Recipe, shapes: Mapping[str, tuple[int, int]], varied: Set[str]) -> int:
    """Return how many views a plan over some frames has.

    Parameters
    ----------
    recipe : Recipe
    shapes : dict of frame id to (rows, cols), px
    varied : set of str
        Ids of the frames whose views get variants.
    """
    tiles = {shape: len(tile_rectangles(shape, recipe.views.tile, recipe.views.overlap)) for shape in shapes.values()}
    variants = recipe.augment.variants
    return sum(tiles[shape] * (1 + variants * (frame in varied)) for frame, shape in shapes.items())


def damped_share(plan: pa.Table) -> float:
    """Return the share of a plan's elastic variants that had to be damped so that they do not fold."""
    varied = plan["params"].filter(pc.not_equal(plan["params"], AS_ACQUIRED))
    variants = [parse_variant(params) for params in varied.to_pylist()]
    bent = [variant.damping < 1 for variant in variants if variant.alpha]
    return sum(bent) / len(bent) if bent else 0.0


def _draw(recipe: Recipe, frame: str, tile: int, variant: int, height: int, width: int) -> tuple[int, str]:
    if variant == 0:
        return 0, AS_ACQUIRED
    found = draw_variant(recipe.augment, frame, tile, variant, (height, width))
    return found.seed, found.to_json()


def _drawn_before(store: Store) -> dict[tuple[str, int, int, int, int], tuple[int, str]]:
    """Return (seed, params) that earlier plans drew from the same ranges, by frame, tile, variant, height and width."""
    if not store.recipe.augment.variants:
        return {}
    mine = json.dumps({"set": store.recipe.augment.set})[1:-1]
    found = {}
    names = ("frame", "tile", "variant", "height", "width", "seed", "params")
    for plan in store.plan_parts():
        for *which, seed, params in zip(*(plan[name].to_pylist() for name in names), strict=True):
            if mine in params:
                found[tuple(which)] = (seed, params)
    return found


def _taken_rows(store: Store, views: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the rows of those of the views that ever had one, and the first row that is free.

    The ledgers' too, should a plan have been lost.
    """
    asked, largest = pa.array(views, pa.string()), -1
    taken: dict[str, int] = {}
    ledgers = (store.ledger(folder.name).table() for folder in sorted((store.path / "ledger").glob("*/")))
    for table in itertools.chain(store.plan_parts(), ledgers):
        largest = max(largest, pc.max(table["row"]).as_py() if len(table) else -1)
        same = table.select(["view", "row"]).filter(pc.is_in(table["view"], asked))
        for view, row in zip(same["view"].to_pylist(), same["row"].to_pylist(), strict=True):
            taken.setdefault(view, row)
    return taken, largest + 1


def plan_metadata(recipe: Recipe) -> dict[str, str]:
    """Return what a plan's file says of the recipe it was made by, so that another plan may take over its limits."""
    normalise = recipe.normalise
    return {"normalise": json.dumps([normalise.method, normalise.low, normalise.high, recipe.dataset.offset])}


def _frame_limits(store: Store, frames: pa.Table, metadata: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Return the limits of some frames that earlier plans of the same normalisation hold, by frame."""
    found: dict[str, tuple[float, float]] = {}
    for plan in store.plan_parts():
        if (plan.schema.metadata or {}).get(b"normalise") == metadata["normalise"].encode():
            same = plan.filter(pc.is_in(plan["frame"], frames["frame"].combine_chunks()))
            columns = (same[name].to_pylist() for name in ("frame", "lo", "hi"))
            found.update((frame, (lo, hi)) for frame, lo, hi in zip(*columns, strict=True))
    return found


def _measure(store: Store, frame: dict[str, Any]) -> tuple[float, float]:
    normalise = store.recipe.normalise
    image = store.pixels.image(frame["frame"])
    return limits(image, normalise.method, normalise.low, normalise.high, store.recipe.dataset.offset)


def _dicts(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()
