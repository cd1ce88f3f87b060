"""Labelled frames with their cells and embedded tiles, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.aliases import LabelArray
from hela_store.embedding.reader import embed_command, readable_views
from hela_store.errors import SplitError, StoreError
from hela_store.images.geometry import Rect
from hela_store.prompts.draw import CellContext, cell_context
from hela_store.recipe.splits import Block, members
from hela_store.store.store import Store

Row = dict[str, Any]


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
    cells : rows of the cells table
    tiles : in the order of the plan
    """

    frame: str
    split: Block
    shape: tuple[int, int]
    label: LabelArray
    cells: list[Row]
    tiles: list[Tile]


def labelled_frames(store: Store, split: str) -> list[str]:
    """Return the frames of a block that can be scored.

    Raises
    ------
    SplitError
        The block is empty, or none of its frames has a labelled cell.
    """
    asked = set(members(store.blocks(), split))
    with_cells = set(store.cells_table()["frame"].to_pylist())
    found = [frame for frame in store.frames_table()["frame"].to_pylist() if frame in asked & with_cells]
    if not found:
        raise SplitError(f"split {split!r} holds no labelled cell in {store.path}; choose another split or add labels")
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
    views, cells = store.views_table(), store.cells_table()
    about = {row["frame"]: row for row in store.frames_table().to_pylist()}
    views = views.filter(pc.equal(views["variant"], 0))
    tiles, inside = _by_frame(views, frames), _by_frame(cells, frames)
    for frame in frames:
        missing = [row for row in tiles[frame] if row["view"] not in committed]
        if missing or not tiles[frame]:
            raise StoreError(f"{len(missing)} views of {frame} are not embedded yet; run `{embed_command(store)}`")
        row = about[frame]
        yield FrameCells(
            frame=frame,
            split=blocks[frame],
            shape=(row["height"], row["width"]),
            label=store.arrays.label(row["group"], row["row"]),
            cells=inside[frame],
            tiles=[
                Tile(view=t["view"], rect=(t["x0"], t["y0"], t["width"], t["height"]), row=committed[t["view"]])
                for t in tiles[frame]
            ],
        )


def with_foreign_embeddings(store: Store, frames: Sequence[str]) -> Iterator[FrameCells]:
    """Yield frames as :func:`frame_cells`, but every tile with the embedding of the same tile of another frame.

    The other frame is half the list away, of the same size. What a score keeps under this control comes from the prompt
    alone, not from the image (measuring rule 4).

    Raises
    ------
    SplitError
        No other frame of the same size is there to swap with.
    """
    tiles = {part.frame: (part.shape, part.tiles) for part in frame_cells(store, frames)}
    for number, part in enumerate(frame_cells(store, frames)):
        order = [frames[(number + len(frames) // 2 + i) % len(frames)] for i in range(len(frames))]
        other = next((f for f in order if f != part.frame and tiles[f][0] == part.shape), None)
        if other is None:
            raise SplitError(f"no other frame of {part.shape} px to take embeddings from in place of {part.frame}'s")
        foreign = [replace(tile, row=theirs.row) for tile, theirs in zip(part.tiles, tiles[other][1], strict=True)]
        yield replace(part, tiles=foreign)


def _by_frame(table: pa.Table, frames: Sequence[str]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {frame: [] for frame in frames}
    for row in table.filter(pc.is_in(table["frame"], value_set=pa.array(frames))).to_pylist():
        rows[row["frame"]].append(row)
    return rows


def context_of(frame: FrameCells, cell: Row) -> CellContext:
    """Return a cell with its surroundings."""
    box = (cell["x0"], cell["y0"], cell["x1"], cell["y1"])
    return cell_context(frame.label, cell["label"], cell["cell"], box)
