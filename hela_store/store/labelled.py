"""A store in which only some cells are labelled, as if nobody had annotated the others.

Whatever reads labels through it (prompts, losses, jitter, detectors) cannot see a cell that is not known: its row
is missing from the cells table, its pixels are background in the labels, and ``valid`` is False there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import ndimage

from hela_store.augment.warp import warp_of
from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.geometry import Rect
from hela_store.recipe.recipe import Recipe

from .arrays import Arrays
from .ledger import Ledger
from .pixels import Pixels, cut_out
from .records import ViewRecord
from .store import Store
from .truths import Truths

RIM = 3
"""Pixels around a known cell of which it is known that they are not this cell: whoever outlines it sees them."""
Labels = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Say what is labelled in one frame.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        Values of the known cells in the frame's label image.
    silent : ndarray of int64, shape (m,)
        Values of cells that are labelled, too, but must not be learned from.
    whole : bool
        Whether these are all its cells, so that all of its ground is known.
    """

    labels: Labels
    silent: Labels
    whole: bool

    def label(self, whole: LabelArray) -> LabelArray:
        """Return the labels of a frame, (row, col), with 0 in place of every cell that is not known."""
        if self.whole and not len(self.silent):
            return whole
        kept: LabelArray = np.where(np.isin(whole, self.labels), whole, 0).astype(whole.dtype)
        return kept

    def valid(self, whole: LabelArray, valid: BoolArray) -> BoolArray:
        """Return where the known labels of a frame say something.

        That is everywhere but on silent cells where all cells are labelled. Elsewhere it is on the known cells and
        :data:`RIM` px around them.

        Parameters
        ----------
        whole : ndarray of int, shape (row, col)
            All labels of the frame.
        valid : ndarray of bool, shape (row, col)
            Where these say something.
        """
        if len(self.silent):
            valid = valid & ~np.isin(whole, self.silent)
        if self.whole:
            return valid
        near: BoolArray = ndimage.maximum_filter(np.isin(whole, self.labels), 2 * RIM + 1)
        return near & valid


UNLABELLED = Known(labels=np.zeros(0, np.int64), silent=np.zeros(0, np.int64), whole=False)


class Labelled(Store):
    """A store of which only some cells are known.

    Parameters
    ----------
    path, recipe, labels_version : as of :class:`Store`
    known : ids of the cells that are labelled
    silent : ids of cells that are labelled, too, but whose ground must say nothing: those that choose the step of a
        method that learns from whole frames
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        known: Collection[str],
        silent: Collection[str] = (),
        labels_version: int | None = None,
    ) -> None:
        super().__init__(path, recipe, labels_version)
        self.known, self.silent = frozenset(known), frozenset(silent)

    @classmethod
    def of(cls, store: Store, known: Collection[str], silent: Collection[str] = ()) -> Self:
        """Return a store at the same version of its labels, of which only these cells are known."""
        return cls(store.path, store.recipe, known, silent, store.labels_version)

    def with_encoder(self, **changes: Any) -> Self:
        """Return the store with another encoder in its recipe and the same known cells."""
        recipe = replace(self.recipe, encoder=replace(self.recipe.encoder, **changes))
        return type(self)(self.path, recipe, self.known, self.silent, self.labels_version)

    def cells_table(self) -> pa.Table:
        """Return the known cells; raises as :meth:`Store.cells_table`."""
        return self._once("known_cells", self._known_cells)

    def _known_cells(self, _: pa.Table) -> pa.Table:
        cells = super().cells_table()
        return cells.filter(pc.is_in(cells["cell"], value_set=pa.array(sorted(self.known), pa.string())))

    @cached_property
    def known_in(self) -> dict[str, Known]:
        """Known cells by frame; frames without one are left out."""
        every = super().cells_table()
        rows = list(zip(*(every[name].to_pylist() for name in ("cell", "frame", "label")), strict=True))
        partly = {frame for cell, frame, _ in rows if cell not in self.known and cell not in self.silent}
        mine: dict[str, list[int]] = {frame: [] for cell, frame, _ in rows if cell in self.known}
        silent: dict[str, list[int]] = {frame: [] for frame in mine}
        for cell, frame, label in rows:
            if cell in self.known:
                mine[frame].append(label)
            elif cell in self.silent and frame in silent:
                silent[frame].append(label)
        return {
            frame: Known(
                labels=np.array(labels, np.int64),
                silent=np.array(silent[frame], np.int64),
                whole=frame not in partly,
            )
            for frame, labels in mine.items()
        }

    @property
    def pixels(self) -> Pixels:
        """The reader of frames, with the known labels only."""
        return self._once("known_pixels", lambda frames: KnownPixels(self.known_in, *self._pixel_parts(frames)))

    @cached_property
    def truths(self) -> Truths:
        """The labels of augmented variants; those of partly labelled frames are made again from the known cells."""
        return KnownTruths(self.arrays, Ledger(self.path / "truths"), self)


class KnownPixels(Pixels):
    """Ingested frames with the known labels only.

    Parameters
    ----------
    known : what is labelled, by frame
    *parts : as :class:`Pixels` takes them
    """

    def __init__(self, known: Mapping[str, Known], *parts: Any) -> None:
        super().__init__(*parts)
        self._known = known

    def label(self, frame: str, rect: Rect | None = None) -> LabelArray:
        """Return a frame's known labels; as :meth:`Pixels.label`."""
        return cut_out(self._known.get(frame, UNLABELLED).label(super().label(frame)), rect)

    def valid(self, frame: str, rect: Rect | None = None) -> BoolArray:
        """Return where a frame's known labels say something; as :meth:`Pixels.valid`."""
        known = self._known.get(frame, UNLABELLED)
        return cut_out(known.valid(super().label(frame), super().valid(frame)), rect)


class KnownTruths(Truths):
    """Labels of augmented variants, of known cells only.

    Where two cells and background meet, warped labels depend on each of the cells. So the stored labels are taken only
    for frames that are known as a whole; for others the known cells are warped.

    Parameters
    ----------
    arrays, ledger : as of :class:`Truths`
    store : Labelled
    """

    def __init__(self, arrays: Arrays, ledger: Ledger, store: Labelled) -> None:
        super().__init__(arrays, ledger)
        self._store = store
        self._last: tuple[str, LabelArray, BoolArray] | None = None

    @cached_property
    def _views(self) -> dict[str, ViewRecord]:
        table = self._store.views_table()
        inside = pc.is_in(table["frame"], value_set=pa.array(list(self._store.known_in), pa.string()))
        return {view.view: view for view in ViewRecord.of(table.filter(inside)) if view.variant}

    def read(self, view: str, shape_rc: tuple[int, int], row: int) -> tuple[LabelArray, BoolArray]:
        """Return the known labels of a variant and where they say something; as :meth:`Truths.read`."""
        found = self._views.get(view)
        if found is None:
            return np.zeros(shape_rc, np.int32), np.zeros(shape_rc, bool)
        known = self._store.known_in[found.frame]
        if known.whole and not len(known.silent):
            return super().read(view, shape_rc, row)
        shape = self._store.frame_records()[found.frame].shape
        return warp_of(found.params, found.rect, shape).truth(*self._frame(found.frame))

    def _frame(self, frame: str) -> tuple[LabelArray, BoolArray]:
        # the views of a frame are read one after another
        if self._last is None or self._last[0] != frame:
            pixels = self._store.pixels
            self._last = (frame, pixels.label(frame), pixels.valid(frame))
        return self._last[1:]


def opener(store: Store) -> Callable[[], Store]:
    """Return what opens this store again, with the same known cells, in another process."""
    if isinstance(store, Labelled):
        return partial(Labelled, store.path, store.recipe, store.known, store.silent, store.labels_version)
    return partial(Store, store.path, store.recipe, store.labels_version)
