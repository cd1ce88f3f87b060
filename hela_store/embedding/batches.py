"""From the plan to the encoder: which views are left, which are encoded together, and their pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.augment.warp import Warp, warp_of
from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images import normalise
from hela_store.store.records import ViewRecord

if TYPE_CHECKING:
    from hela_store.store.store import Store

Ints = npt.NDArray[np.int64]
Group = tuple[list[ViewRecord], list[ViewRecord]]
"""Views that are encoded together, and those of them that are to be committed."""


class Work(Sequence[Group]):
    """The groups with a view to do, in the order of the plan; each is made when it is asked for.

    Parameters
    ----------
    views : rows of the plan, those of a group after each other
    bounds : where each group begins, and where the last one ends, int64, (groups + 1,)
    todo : which of the views are to be committed
    """

    def __init__(self, views: pa.Table, bounds: Ints, todo: BoolArray) -> None:
        self._views, self._bounds, self._todo = views, bounds, todo

    @property
    def size(self) -> int:
        """Number of views that are to be committed."""
        return int(self._todo.sum())

    @property
    def passes(self) -> int:
        """Number of views that are encoded for that: all of each group."""
        return len(self._views)

    @property
    def ids(self) -> list[str]:
        """Their ids, in the order in which they are encoded."""
        found: list[str] = self._views["view"].filter(pa.array(self._todo)).to_pylist()
        return found

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Group: ...

    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...

    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin, end = self._bounds[index : index + 2]
        group = list(ViewRecord.of(self._views.slice(begin, end - begin)))
        return group, [view for view, left in zip(group, self._todo[begin:end], strict=True) if left]


def work_of(views: pa.Table, done: BoolArray, batch: int, limit: int | None) -> Work:
    """Cut the plan into groups of views of one size; keep those with a view to do, at most ``limit`` views in all.

    The groups follow from the plan alone, not from what is ``done``, and one is always encoded as a whole, so that a
    resumed job gives the same bits as an uninterrupted one.
    """
    todo = ~done
    kind = (views["width"].to_numpy().astype(np.int64) << 32) + views["height"].to_numpy()
    order = np.argsort(kind, kind="stable")
    begins = np.flatnonzero(np.diff(kind[order], prepend=-1))
    within = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    heads = np.flatnonzero(within % batch == 0)
    bounds = np.stack([heads, np.append(heads[1:], len(order))], axis=1) if len(heads) else np.empty((0, 2), int)
    bounds = bounds[np.argsort(order[bounds[:, 0]], kind="stable")]
    counts = np.array([0, *np.cumsum(todo[order])])
    bounds = bounds[counts[bounds[:, 1]] > counts[bounds[:, 0]]]
    if limit is not None:
        bounds, todo = _limited(order, bounds, todo, limit)
    lengths = bounds[:, 1] - bounds[:, 0]
    kept = np.concatenate([[0], np.cumsum(lengths)])
    rows = order[np.arange(kept[-1]) + np.repeat(bounds[:, 0] - kept[:-1], lengths)]
    return Work(views.take(pa.array(rows)), kept, todo[rows])


def _limited(order: Ints, bounds: Ints, todo: BoolArray, limit: int) -> tuple[Ints, BoolArray]:
    kept = np.zeros_like(todo)
    for number, (begin, end) in enumerate(bounds):
        rows = order[begin:end][todo[order[begin:end]]][:limit]
        kept[rows] = True
        limit -= len(rows)
        if limit == 0:
            return bounds[: number + 1], kept
    return bounds, kept


class Frames:
    """The frames views are cut from, brought to 0..255 as a whole; the last one is kept.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        # what is stored belongs to the labels as ingested; later versions are warped when they are read
        self._store = store.at_labels(0)
        self._last: tuple[tuple[str, float, float], npt.NDArray[np.float32]] | None = None
        self._counts: tuple[str, npt.NDArray[Any]] | None = None
        self._warps: dict[str, Warp] = {}

    def stack(self, views: Sequence[ViewRecord]) -> npt.NDArray[np.float32]:
        """Return what the encoder sees of views of one size, float32, (B, row, col), 0..255.

        Variants of one frame that follow each other are made together.
        """
        parts = []
        self._warps = {}
        for (_, varied), same in itertools.groupby(views, lambda view: (view.frame, view.variant > 0)):
            some = list(same)
            parts += list(self._augmented(some)) if varied else [self.pixels(view) for view in some]
        return np.stack(parts)

    def _augmented(self, views: Sequence[ViewRecord]) -> Iterator[npt.NDArray[np.float32]]:
        from hela_store.augment.render import render

        frame, recipe = self._frame(views[0].frame), self._store.recipe
        shape, limits = (frame.shape[0], frame.shape[1]), (views[0].lo, views[0].hi)
        warps = [self._warps.setdefault(view.view, warp_of(view.params, view.rect, shape)) for view in views]
        for counts in render(frame, warps, limits, recipe.dataset.offset):
            yield normalise.apply(counts, *limits, recipe.normalise.method, shape)

    def _frame(self, name: str) -> npt.NDArray[Any]:
        if self._counts is None or self._counts[0] != name:
            self._counts = (name, self._store.pixels.image(name))
        return self._counts[1]

    def truth(self, view: ViewRecord) -> tuple[LabelArray, BoolArray]:
        """Return a variant's labels, int32, and where they say something, bool, both (row, col)."""
        label, valid = self._store.pixels.label(view.frame), self._store.pixels.valid(view.frame)
        shape = (label.shape[0], label.shape[1])
        warp = self._warps.get(view.view) or warp_of(view.params, view.rect, shape)
        return warp.truth(label, valid)

    def pixels(self, view: ViewRecord) -> npt.NDArray[np.float32]:
        """Return what the encoder sees of a view, float32, (row, col), 0..255."""
        if view.variant:
            return next(self._augmented([view]))
        wanted = (view.frame, view.lo, view.hi)
        if self._last is None or self._last[0] != wanted:
            image = self._frame(view.frame)
            method = self._store.recipe.normalise.method
            self._last = (wanted, normalise.apply(image, view.lo, view.hi, method))
        x0, y0, width, height = view.rect
        return self._last[1][y0 : y0 + height, x0 : x0 + width]


def done_of(store: Store, views: pa.Table) -> BoolArray:
    """Return which of a plan's :func:`unique_views` are committed, in the row the plan gives them."""
    ledger = store.ledger().table()
    rows, wanted = ledger["row"].to_numpy(), views["row"].to_numpy()
    entry = np.full(max(rows.max(initial=-1), wanted.max(initial=-1)) + 1, -1)
    entry[rows] = np.arange(len(rows))
    last = entry[wanted]
    there = np.flatnonzero(last >= 0)
    same = pc.equal(ledger["view"].take(pa.array(last[there])), views["view"].take(pa.array(there)))
    found = np.zeros(len(views), bool)
    found[there] = same.to_numpy()
    _move(found, last, ledger, views)
    return found


def _move(found: BoolArray, last: Ints, ledger: pa.Table, views: pa.Table) -> None:
    """Let the last entry of a view decide; ``found`` are views whose row's last entry, ``last``, is theirs.

    Only entries that made nothing done can say otherwise. There are few: of views that were committed twice or that
    are in no plan.
    """
    rest = np.ones(len(ledger), bool)
    rest[last[found]] = False
    others = ledger.select(["view", "row"]).filter(pa.array(rest))
    if not len(others):
        return
    index = pc.index_in(views["view"], others["view"].combine_chunks())
    if index.null_count == len(index):
        return
    of_view: dict[str, int] = dict(zip(others["view"].to_pylist(), np.flatnonzero(rest).tolist(), strict=True))
    places = np.flatnonzero(pc.is_valid(index).to_numpy())
    asked = views.select(["view", "row"]).take(pa.array(places))
    newest = np.array([of_view[view] for view in asked["view"].to_pylist()])
    newest = np.maximum(newest, np.where(found[places], last[places], -1))
    found[places] = ledger["row"].to_numpy()[newest] == asked["row"].to_numpy()


def unique_views(plan: pa.Table) -> pa.Table:
    """Return the rows of a plan, each view once: frames with the very same pixels, such as blank ones, share theirs."""
    # a view has one row in every plan, and no other view has it
    _, first = np.unique(plan["row"].to_numpy(), return_index=True)
    return plan if len(first) == len(plan) else plan.take(pa.array(np.sort(first)))
