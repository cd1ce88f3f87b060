"""From the plan to the encoder: which views are left, which are encoded together, and their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import normalise
from .errors import StoreError
from .ingest import frame_digest

if TYPE_CHECKING:
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
    """The frames views are cut from, brought to 0..255 as a whole; the last one is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        frames = store.frames_table().select(["frame", "group", "row", "sha256"]).to_pylist()
        self._places = {frame["frame"]: (frame["group"], frame["row"]) for frame in frames}
        self._sums = {frame["frame"]: frame["sha256"] for frame in frames}
        self._last: tuple[tuple[str, float, float], npt.NDArray[np.float32]] | None = None

    def pixels(self, view: View) -> npt.NDArray[np.float32]:
        """Return what the encoder sees of a view, float32, (row, col), 0..255."""
        wanted = (view["frame"], view["lo"], view["hi"])
        if self._last is None or self._last[0] != wanted:
            image = self._store.arrays.image(*self._places[view["frame"]])
            if frame_digest(image) != self._sums[view["frame"]]:
                raise StoreError(
                    f"frame {view['frame']} in {self._store.path} is not the one that was ingested; "
                    "`hela-store verify --repair` reads it again from the data set"
                )
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
