"""Labelled frames with their cells and embedded tiles, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from hela_store.base.aliases import LabelArray
from hela_store.embedding.reader import embed_command, readable_views
from hela_store.errors import SplitError, StoreError
from hela_store.images.geometry import Rect
from hela_store.prompts.draw import CellContext, cell_context
from hela_store.recipe.splits import Block, members
from hela_store.store.records import CellRecord, ViewRecord, by_frame
from hela_store.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A view as acquired: its id, rectangle ``(x0, y0, width, height)`` px, frame, and row in the embeddings array."""

    view: str
    rect: Rect
    row: int


@dataclass(frozen=True, kw_only=True)
class FrameCells:
    """A labelled frame with its cells and tiles.

    Attributes
    ----------
    frame : str
    split : str
        Which block the frame belongs to.
    shape : (int, int)
        ``(rows, cols)`` px.
    label : int32, (row, col)
    cells : in the order of the cells table
    tiles : in the order of the plan
    """

    frame: str
    split: Block
    shape: tuple[int, int]
    label: LabelArray
    cells: list[CellRecord]
    tiles: list[Tile]


def need_labels(store: Store) -> None:
    """Refuse a store in which no cell is labelled.

    Raises
    ------
    SplitError
        It says what can be done without labels, and how to get them.
    """
    if not len(store.cells_table()):
        raise SplitError(
            f"no frame of {store.path} has labels, so there is nothing to learn from or to score; make a store of "
            "frames with label images, or label cells with `hela-store teach`. Masks need no labels: "
            "`hela-store segment FRAMES --generic`"
        )


def labelled_frames(store: Store, split: str) -> list[str]:
    """Return the frames of a block that can be scored.

    Raises
    ------
    SplitError
        The block is empty, or none of its frames has a labelled cell.
    """
    need_labels(store)
    asked = set(members(store.blocks(), split))
    asked &= set(store.cells_table()["frame"].to_pylist())
    found = [frame for frame in store.frame_records() if frame in asked]
    if not found:
        raise SplitError(
            f"split {split!r} of {store.path} holds no labelled cell; choose another --split, or change [split] in "
            "store.toml"
        )
    return found


def median_training_radius(store: Store) -> float:
    """Return the median equivalent radius, px, of the cells of training frames (of all, where none is labelled)."""
    cells, blocks = store.cells_table(), store.blocks()
    diameters = np.asarray(cells["diameter"])
    train = np.array([blocks[frame] == "train" for frame in cells["frame"].to_pylist()])
    return float(np.median(diameters[train] if train.any() else diameters)) / 2


def frame_cells(store: Store, frames: Sequence[str]) -> Iterator[FrameCells]:
    """Yield frames with their cells and embedded tiles.

    Raises
    ------
    StoreError
        A tile of the frame is not embedded yet.
    """
    blocks, committed = store.blocks(), readable_views(store)
    views, about = store.views_table(), store.frame_records()
    tiles = by_frame(ViewRecord, views.filter(pc.equal(views["variant"], 0)), frames)
    inside = by_frame(CellRecord, store.cells_table(), frames)
    pixels = store.pixels
    for frame in frames:
        missing = [view for view in tiles[frame] if view.view not in committed]
        if missing or not tiles[frame]:
            raise StoreError(f"{len(missing)} views of {frame} are not embedded yet; run `{embed_command(store)}`")
        yield FrameCells(
            frame=frame,
            split=blocks[frame],
            shape=about[frame].shape,
            label=pixels.label(frame),
            cells=inside[frame],
            tiles=[Tile(view=view.view, rect=view.rect, row=committed[view.view]) for view in tiles[frame]],
        )


def frame_tiles(store: Store, frames: Sequence[str]) -> dict[str, list[Tile]]:
    """Return the tiles of the frames that are completely embedded, by frame."""
    committed = readable_views(store)
    views = store.views_table()
    planned = by_frame(ViewRecord, views.filter(pc.equal(views["variant"], 0)), frames)
    return {
        frame: [Tile(view=view.view, rect=view.rect, row=committed[view.view]) for view in tiles]
        for frame, tiles in planned.items()
        if tiles and all(view.view in committed for view in tiles)
    }


def context_of(frame: FrameCells, cell: CellRecord) -> CellContext:
    """Return a cell with its surroundings."""
    return cell_context(frame.label, cell.label, cell.cell, cell.box)
