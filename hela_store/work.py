"""From the plan to the encoder: which views are left, which are encoded together, and their pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import normalise
from .augment.warp import Warp, warp_of
from .errors import StoreError
from .ingest import frame_digest
from .types import BoolArray, LabelArray

if TYPE_CHECKING:
    import torch

    from .store import Store

View = dict[str, Any]
"""A row of the plan."""
Work = list[tuple[list[View], list[View]]]
"""Groups that are encoded together, each with those of its views that are to be committed."""


def work_of(views: list[View], committed: set[str], batch: int, limit: int | None) -> Work:
    """Cut the plan into groups of views of one size; return those with a view to do, each with what is to do of it.

    The groups follow from the plan alone, and one is always encoded as a whole, so that a resumed job gives the same
    bits as an uninterrupted one.
    """
    groups: list[list[View]] = []
    filling: dict[tuple[int, int], list[View]] = {}
    for view in views:
        group = filling.setdefault((view["width"], view["height"]), [])
        if not group:
            groups.append(group)
        group.append(view)
        if len(group) == batch:
            del filling[view["width"], view["height"]]
    room = len(views) if limit is None else limit
    work: Work = []
    for group in groups:
        todo = [view for view in group if view["view"] not in committed][:room]
        room -= len(todo)
        if todo:
            work.append((group, todo))
    return work


class Frames:
    """The frames views are cut from, brought to 0..255 as a whole; the last one is kept.

    Parameters
    ----------
    store : Store
    device : where augmented views are sampled
    """

    def __init__(self, store: Store, device: str | torch.device = "cpu") -> None:
        self._store, self._device = store, device
        frames = store.frames_table().select(["frame", "group", "row", "sha256"]).to_pylist()
        self._places = {frame["frame"]: (frame["group"], frame["row"]) for frame in frames}
        self._sums = {frame["frame"]: frame["sha256"] for frame in frames}
        self._last: tuple[tuple[str, float, float], npt.NDArray[np.float32]] | None = None
        self._counts: tuple[str, npt.NDArray[Any]] | None = None
        self._warps: dict[str, Warp] = {}

    def stack(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """Return what the encoder sees of views of one size, float32, (B, row, col), 0..255.

        Variants of one frame that follow each other are made together.
        """
        parts = []
        self._warps = {}
        for (_, varied), same in itertools.groupby(views, lambda view: (view["frame"], view["variant"] > 0)):
            some = list(same)
            parts += list(self._augmented(some)) if varied else [self.pixels(view) for view in some]
        return np.stack(parts)

    def _augmented(self, views: Sequence[View]) -> Iterator[npt.NDArray[np.float32]]:
        from .augment.render import render

        frame, recipe = self._frame(views[0]["frame"]), self._store.recipe
        shape, limits = (frame.shape[0], frame.shape[1]), (views[0]["lo"], views[0]["hi"])
        warps = [self._warps.setdefault(view["view"], warp_of(view, shape)) for view in views]
        for counts in render(frame, warps, limits, recipe.dataset.offset, self._device):
            yield normalise.apply(counts, *limits, recipe.normalise.method, shape)

    def _frame(self, name: str) -> npt.NDArray[Any]:
        if self._counts is None or self._counts[0] != name:
            image = self._store.arrays.image(*self._places[name])
            if frame_digest(image) != self._sums[name]:
                raise StoreError(
                    f"frame {name} in {self._store.path} is not the one that was ingested; "
                    "`hela-store verify --repair` reads it again from the data set"
                )
            self._counts = (name, image)
        return self._counts[1]

    def truth(self, view: View) -> tuple[LabelArray, BoolArray]:
        """Return a variant's labels, int32, and where they say something, bool, both (row, col)."""
        group, row = self._places[view["frame"]]
        label, valid = self._store.arrays.label(group, row), self._store.arrays.valid(group, row)
        warp = self._warps.get(view["view"]) or warp_of(view, (label.shape[0], label.shape[1]))
        return warp.truth(label, valid)

    def pixels(self, view: View) -> npt.NDArray[np.float32]:
        """Return what the encoder sees of a view, float32, (row, col), 0..255."""
        if view["variant"]:
            return next(self._augmented([view]))
        wanted = (view["frame"], view["lo"], view["hi"])
        if self._last is None or self._last[0] != wanted:
            image = self._frame(view["frame"])
            method = self._store.recipe.normalise.method
            self._last = (wanted, normalise.apply(image, view["lo"], view["hi"], method))
        x0, y0, width, height = (view[name] for name in ("x0", "y0", "width", "height"))
        return self._last[1][y0 : y0 + height, x0 : x0 + width]


def done_of(store: Store, views: list[View]) -> set[str]:
    """Return the ids of those views that are committed, in the row the plan gives them."""
    rows = store.committed()
    return {view["view"] for view in views if rows.get(view["view"]) == view["row"]}


def unique_views(plan: pa.Table) -> list[View]:
    """Return the rows of a plan, each view once: frames with the very same pixels, such as blank ones, share theirs."""
    found: dict[str, View] = {}
    for view in plan.to_pylist():
        found.setdefault(view["view"], view)
    return list(found.values())
