"""Detections of a frame as plain arrays, and how those of neighbouring tiles become one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from hela_store.images.boxes import box_iou
from hela_store.images.geometry import Rect, scoring_tiles
from hela_store.images.rle import Rle

SAME_TILE = 0.6
"""Box IoU above which two detections of one tile are one cell."""
OTHER_TILE = 0.4
"""The same for two tiles, which see a cell a little differently."""
HELD = 0.7
"""Share of the smaller box in the larger one above which two tiles' detections are one cell: a part seen at an edge."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Cells found in one frame, highest score first.

    Attributes
    ----------
    boxes : float64, (N, 4) ``(x0, y0, x1, y1)`` px, frame
    scores : float64, (N,), 0 to 1
    points : float64, (N, 2) ``(x, y)`` px, frame, where to click
    tiles : int64, (N,), which of the frame's tiles each was found in; -1 where no tile was looked at
    masks : (N,) coarse masks in frame coordinates; None where there is none
    """

    boxes: Floats
    scores: Floats
    points: Floats
    tiles: npt.NDArray[np.int64]
    masks: tuple[Rle | None, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | Sequence[int]) -> Detections:
        """Return those at ``index``, or where it is True."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        arrays = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "masks"}
        return Detections(**arrays, masks=tuple(self.masks[i] for i in index))

    def above(self, threshold: float) -> Detections:
        """Return those with at least this score."""
        return self.take(self.scores >= threshold)


def no_detections() -> Detections:
    """Return an empty list: what an empty frame has."""
    return from_boxes(np.zeros((0, 4)), np.zeros(0))


def from_boxes(boxes: npt.ArrayLike, scores: npt.ArrayLike, points: npt.ArrayLike | None = None) -> Detections:
    """Make detections of boxes alone; the click point is the box's middle where none is given."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    middle = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    return Detections(
        boxes=boxes,
        scores=np.asarray(scores, float).reshape(-1),
        points=middle if points is None else np.asarray(points, float).reshape(-1, 2),
        tiles=np.full(len(boxes), -1, np.int64),
        masks=(None,) * len(boxes),
    )


def join(parts: Sequence[Detections]) -> Detections:
    """Put lists behind each other."""
    parts = [no_detections(), *parts]
    arrays = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Detections) if f.name != "masks"
    }
    return Detections(**arrays, masks=tuple(mask for p in parts for mask in p.masks))


def merge_tiles(found: Detections, tiles: Sequence[Rect], shape: tuple[int, int]) -> Detections:
    """Let each cell appear once.

    Of several detections of one cell that one stays whose tile holds it most interior, which is the tile its prompt is
    answered in; among equals the one with the higher score. Memory grows with the number of detections alone.

    Parameters
    ----------
    found : of all tiles of a frame
    tiles : (x0, y0, width, height) px, frame, each
    shape : (rows, cols) of the frame, px
    """
    at_home = found.tiles == scoring_tiles(found.boxes, tiles, shape)
    order = np.lexsort((-found.scores, ~at_home))
    boxes, owner = found.boxes[order], found.tiles[order]
    area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        # only what shares pixels can be the same cell; a weak detector finds tens of thousands in a large frame
        later = boxes[i + 1 :]
        near = (later[:, 0] < boxes[i, 2]) & (later[:, 2] > boxes[i, 0])
        near &= (later[:, 1] < boxes[i, 3]) & (later[:, 3] > boxes[i, 1])
        rest = np.flatnonzero(alive[i + 1 :] & near) + i + 1
        overlap = box_iou(boxes[i : i + 1], boxes[rest])[0]
        shared = overlap * (area[i] + area[rest]) / (1 + overlap)
        held = shared / np.maximum(np.minimum(area[i], area[rest]), 1e-9)
        same = owner[rest] == owner[i]
        alive[rest[np.where(same, overlap > SAME_TILE, (overlap > OTHER_TILE) | (held > HELD))]] = False
    kept = order[alive]
    return found.take(kept[np.argsort(-found.scores[kept], kind="stable")])
