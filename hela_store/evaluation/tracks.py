"""The units that intervals over a store's cells are made of: tracks, frames, blocks of frames and training seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hela_store.base.aliases import LabelArray
from hela_store.metrics.intervals import BLOCK_FRAMES, Units, frame_blocks, numbered
from hela_store.metrics.tracks import Method, link, traced
from hela_store.recipe.recipe import Recipe
from hela_store.recipe.splits import SAME_NUCLEI, protocol
from hela_store.store.records import CellRecord
from hela_store.store.store import Store


@dataclass(frozen=True, kw_only=True)
class CellTracks:
    """The tracks of a store's cells.

    Attributes
    ----------
    method : how they were found, see :class:`hela_store.metrics.tracks.Tracks`
    groups : how stills are grouped, ``split.group`` of the recipe; a group is then the unit. Empty: not at all
    of : dict of cell id to the number of its track
    times : dict of cell id to its (sequence, time)
    alone : whether all is of one image, or one group, so that its cells can be halved and give no interval
    """

    method: Method
    of: dict[str, int]
    times: dict[str, tuple[str, int]]
    groups: str = ""
    alone: bool = False

    @property
    def is_stills(self) -> bool:
        """Whether the units are images, or groups of them."""
        return self.method == "images"

    def __str__(self) -> str:
        if self.alone:
            return "all cells are of one image"
        if len(set(self.times.values())) == 1:
            return "all cells are of one frame, so there is no interval"
        if self.is_stills:
            return f"intervals count each {f'group of images ({self.groups})' if self.groups else 'image'} once"
        how = "by its label" if self.method == "labels" else "linked by overlap"
        return f"intervals count a cell in several frames once ({how})"

    @property
    def counted(self) -> str:
        """Return what a unit is called, in the plural."""
        if not self.is_stills or self.alone:
            return "cells"
        return "groups of images" if self.groups else "images"

    def units(self, cells: Sequence[str], seeds: npt.NDArray[np.int64] | None = None) -> Units:
        """Return the units of rows.

        Parameters
        ----------
        cells : cell id of each row
        seeds : int64, (rows,), training seed of each row; one for all where None
        """
        times = [self.times[cell] for cell in cells]
        order = {time: number for number, time in enumerate(sorted(set(times)))}
        track = np.array([self.of[cell] for cell in cells], np.int64)
        frame = np.array([0 if self.alone else order[time] for time in times], np.int64)
        return Units(
            track=track,
            frame=None if self.is_stills and not self.alone else frame,
            block=track if self.is_stills else frame_blocks(times, BLOCK_FRAMES),
            seed=np.zeros(len(cells), np.int64) if seeds is None else seeds,
        )


def cell_tracks(store: Store, frames: Sequence[str]) -> CellTracks:
    """Return the tracks of all cells of some frames; where images share no cell, the unit is the image or its group."""
    records = store.frame_records()
    asked = sorted(set(frames), key=lambda name: (records[name].sequence, records[name].time))
    table = store.cells_table()
    cells = list(CellRecord.of(table.filter(pc.is_in(table["frame"], value_set=pa.array(asked, pa.string())))))
    times = {cell.cell: (records[cell.frame].sequence, records[cell.frame].time) for cell in cells}
    if shares_no_cell(store.recipe):
        groups = store.groups() or {}
        images = numbered([groups.get(cell.frame, cell.frame) for cell in cells]).tolist()
        grouped = store.recipe.split.group if groups else ""
        return CellTracks(method="images", of=dict(zip(times, images, strict=True)), times=times, groups=grouped)
    found = link(_label_images(store, asked))
    tracks = numbered([found.of[cell.frame, cell.label] for cell in cells]).tolist()
    return CellTracks(method=found.method, of=dict(zip(times, tracks, strict=True)), times=times)


def nuclei(store: Store, split: str = "train", *, sparse: bool = False) -> dict[str, str]:
    """Return the cells of a block by id, each with the first cell of its track; where images share no cell, itself.

    Cells that learn must be of other tracks than cells that choose or judge.

    Parameters
    ----------
    store : Store
    split : block
    sparse : whether so few cells are labelled that overlap may find no link; equal labels are one nucleus, too, then
    """
    blocks, records = store.blocks(), store.frame_records()
    cells = [cell for cell in CellRecord.of(store.cells_table()) if blocks[cell.frame] == split]
    tracks = cell_tracks(store, [cell.frame for cell in cells])
    if tracks.is_stills:
        return {cell: cell for cell in tracks.of}
    of = numbered([tracks.of[cell.cell] for cell in cells])
    if sparse and cells:
        labels = numbered([(records[cell.frame].sequence, cell.label) for cell in cells])
        pairs = (np.ones(len(cells)), (of, len(cells) + labels))
        of = connected_components(coo_array(pairs, shape=(2 * len(cells), 2 * len(cells))))[1][of]
    first: dict[int, str] = {}
    return {cell.cell: first.setdefault(at, cell.cell) for cell, at in zip(cells, of.tolist(), strict=True)}


def store_protocol(store: Store, split: str = "test") -> str:
    """Say what a score on a block means, as :func:`hela_store.recipe.splits.protocol`; of stills how they are split."""
    recipe = store.recipe
    if recipe.dataset.stills:
        if _by_numbers(recipe):
            return f"split by frame number; in a time-lapse the scored frames show {SAME_NUCLEI}"
        if recipe.split.group:
            return f"stills, grouped by {recipe.split.group}"
        return "stills, split one by one; some may show the same slide"
    sequences = {frame: record.sequence for frame, record in store.frame_records().items()}
    return protocol(store.blocks(), sequences, "val" if split == "val" else "test")


def shares_no_cell(recipe: Recipe) -> bool:
    """Return whether images share no cell: stills, unless blocks of their numbers say that they may be a time-lapse."""
    return recipe.dataset.stills and (bool(recipe.split.group) or not _by_numbers(recipe))


def _by_numbers(recipe: Recipe) -> bool:
    split = recipe.split
    return split.mode != "frames" or bool(split.train or split.val or split.test)


def unseen_cells(store: Store, frames: Sequence[str]) -> list[str] | None:
    """Return the cells of some frames that no training frame holds, by label or by overlap from frame to frame.

    A later frame of a sequence that was trained on shows mostly the same nuclei; these are the others.

    Returns
    -------
    list of str or None
        None where no training frame is of a sequence of these frames, or where images share no cell: there all are new.
    """
    records, blocks = store.frame_records(), store.blocks()
    if shares_no_cell(store.recipe):
        return None
    asked, cells = set(frames), list(CellRecord.of(store.cells_table()))
    trained = {frame for frame in records if blocks[frame] == "train"}
    sequences = {records[frame].sequence for frame in trained} & {records[frame].sequence for frame in asked}
    if not sequences:
        return None
    known = {(records[c.frame].sequence, c.label) for c in cells if c.frame in trained}
    held: set[tuple[str, int]] = set()
    for sequence in sequences:
        times = sorted((record.time, name) for name, record in records.items() if record.sequence == sequence)
        for order in (times, times[::-1]):
            held |= traced(_from_last_trained([name for _, name in order], trained, asked, store))
    return [
        cell.cell
        for cell in cells
        if cell.frame in asked
        and (cell.frame, cell.label) not in held
        and (records[cell.frame].sequence, cell.label) not in known
    ]


def _from_last_trained(
    order: list[str], trained: set[str], asked: set[str], store: Store
) -> Iterator[tuple[str, LabelArray]]:
    """Yield the labelled frames from the last training frame before the first asked one to the last asked one."""
    first = next((i for i, name in enumerate(order) if name in asked), None)
    starts = [i for i, name in enumerate(order[:first]) if name in trained]
    if first is None or not starts:
        return
    last = max(i for i, name in enumerate(order) if name in asked)
    labelled = [name for name in order[starts[-1] : last + 1] if store.frame_records()[name].has_label]
    for name, _, image in _label_images(store, labelled):
        yield name, image


def _label_images(store: Store, frames: Sequence[str]) -> Iterator[tuple[str, str, LabelArray]]:
    records = store.frame_records()
    for name in frames:
        record = records[name]
        yield name, record.sequence, store.pixels.label(name)
