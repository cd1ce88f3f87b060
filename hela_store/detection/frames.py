"""Stored frames as the detector sees them, and their truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.base.aliases import BoolArray
from hela_store.errors import SplitError
from hela_store.evaluation.frames import FrameCells, frame_cells
from hela_store.images.boxes import box_iou
from hela_store.metrics.matching import countable, mask_ious
from hela_store.recipe.splits import members
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .box_scores import FramePairs
from .detections import Detections

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FrameTruth:
    """A stored frame: its cells and tiles, and where labels say something (bool, (row, col))."""

    frame: FrameCells
    valid: BoolArray

    @property
    def boxes(self) -> Floats:
        """Boxes of the cells, float64, (M, 4) ``(x0, y0, x1, y1)`` px, frame."""
        return np.asarray([cell.box for cell in self.frame.cells], float).reshape(-1, 4)

    @property
    def labels(self) -> list[int]:
        """Values of the cells in the label image."""
        return [cell.label for cell in self.frame.cells]


def split_frames(store: Store, split: str) -> list[str]:
    """Return the frames of a block, in order, labelled or not; SplitError where there is none."""
    asked = set(members(store.blocks(), split))
    return [frame for frame in store.frame_records() if frame in asked]


def scorable_frames(store: Store, split: str) -> list[str]:
    """Return the frames of a block whose labels say something: an empty frame of a labelled set has false positives.

    Raises
    ------
    SplitError
        There is none.
    """
    frames = store.frame_records()
    found = [frame for frame in split_frames(store, split) if frames[frame].has_label]
    if not found:
        raise SplitError(f"split {split!r} of {store.path} holds no labelled frame; choose another split or add labels")
    return found


def truths(store: Store, frames: Sequence[str]) -> Iterator[FrameTruth]:
    """Yield frames with their truth, one at a time; StoreError where one is not embedded yet."""
    for part in frame_cells(store, frames):
        yield FrameTruth(frame=part, valid=store.pixels.valid(part.frame))


def tile_embeddings(store: Store, frame: FrameCells) -> Iterator[Tensor]:
    """Yield the embeddings of a frame's tiles, float32, (256, 64, 64), in order."""
    for tile in frame.tiles:
        yield torch.from_numpy(store.embedding_at(tile.row)).float()


def box_pairs(found: Detections, truth: FrameTruth) -> FramePairs:
    """Put detections beside the truth, by box IoU."""
    counted = countable(found.boxes, truth.valid)
    return FramePairs(scores=found.scores, ious=box_iou(found.boxes, truth.boxes), counted=counted)


def mask_pairs(found: Detections, truth: FrameTruth) -> FramePairs:
    """Put detections beside the truth, by the IoU of their masks."""
    ious = mask_ious(found.masks, truth.frame.label, truth.labels)
    return FramePairs(scores=found.scores, ious=ious, counted=countable(found.boxes, truth.valid))


def cell_groups(cells: Sequence[CellRecord], limits: dict[str, tuple[float, float]]) -> dict[str, BoolArray]:
    """Return which cells are small, large, dim, bright, touching and alone, bool (M,) each.

    Parameters
    ----------
    cells : of one frame
    limits : lower and upper fifth of ``diameter`` and ``mean_intensity`` over all cells that are scored
    """
    groups: dict[str, BoolArray] = {}
    for column, low, high in (("diameter", "smallest fifth", "largest fifth"),
                              ("mean_intensity", "dimmest fifth", "brightest fifth")):  # fmt: skip
        values = np.array([getattr(cell, column) for cell in cells], float)
        groups[low], groups[high] = values <= limits[column][0], values >= limits[column][1]
    touching = np.array([cell.touches_neighbour for cell in cells], bool)
    return groups | {"touching": touching, "not touching": ~touching}


def fifths(store: Store, frames: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the lower and upper fifth of diameter and intensity over the cells of frames."""
    cells = store.cells_table()
    chosen = np.isin(np.asarray(cells["frame"].to_pylist()), list(frames))
    out: dict[str, tuple[float, float]] = {}
    for column in ("diameter", "mean_intensity"):
        values = np.asarray(cells[column], float)[chosen]
        out[column] = tuple(np.percentile(values, [20, 80]).tolist()) if len(values) else (0.0, 0.0)
    return out
