"""Label images of a baseline as a run: every cell of the truth has a row, found or not, and every object one, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.progress import Progress
from hela_store.images.labels import shared_pixels
from hela_store.images.rle import bbox, encode
from hela_store.metrics.cell import score_cell
from hela_store.metrics.failures import label_areas
from hela_store.metrics.matching import match
from hela_store.metrics.overlap import overlap
from hela_store.recipe.splits import Block, members
from hela_store.store.records import CellRecord, by_frame
from hela_store.store.store import Store

from .rows import BaselineRun, found_row

Labels = npt.NDArray[np.int32]


def pixels(store: Store, frame: str) -> tuple[npt.NDArray[Any], LabelArray]:
    """Return image (counts) and labels of a stored frame, (row, col)."""
    return store.pixels.image(frame), store.pixels.label(frame)


def spread(frames: Sequence[str], count: int) -> list[str]:
    """Return at most ``count`` of the frames, evenly spread."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    return [frames[place] for place in places]


def segment_split(
    store: Store, split: str, segment: Callable[[npt.NDArray[Any]], Labels], what: str, progress: Progress
) -> BaselineRun:
    """Segment every frame of a block and match what is found with its cells.

    Every cell has a row of prompt ``none``: the object matched to it one to one (greatest total IoU), or IoU 0.
    Objects that match no cell are in ``detections.parquet`` alone, which SEG and DET are made from.

    Parameters
    ----------
    segment : makes a label image, int32 (row, col), of a frame as acquired
    what : shown as progress

    Raises
    ------
    SplitError, StoreError
        The block is empty; nothing was ingested.
    """
    blocks, run = store.blocks(), BaselineRun(detections=[])
    wanted = members(blocks, split)
    cells = by_frame(CellRecord, store.cells_table(), wanted)
    found: list[dict[str, Any]] = []
    for name in progress(wanted, total=len(wanted), what=f"{what} {split}"):
        image, truth = pixels(store, name)
        frame = _Frame(name=name, split=blocks[name], truth=truth, cells=cells[name])
        found += _add(run, frame, segment(image))
    run.detections, run.frames = found, wanted
    return run


@dataclass(frozen=True, kw_only=True)
class _Frame:
    name: str
    split: Block
    truth: LabelArray
    cells: Sequence[CellRecord]


def _add(run: BaselineRun, frame: _Frame, label: Labels) -> list[dict[str, Any]]:
    """Add the cells of one frame to a run; return the rows of all objects found."""
    truth, cells, shape = frame.truth, frame.cells, (frame.truth.shape[0], frame.truth.shape[1])
    objects = [(number, place) for number, place in enumerate(ndimage.find_objects(label), 1) if place is not None]
    masks: list[tuple[BoolArray, tuple[int, int]]] = [
        (label[place] == number, (place[1].start, place[0].start)) for number, place in objects
    ]
    matched = _match(label, truth, [cell.label for cell in cells])
    areas = label_areas(truth)
    of_object = {number: cells[i].cell for i, number in matched.items()}
    ious: dict[int, float] = {}
    for i, cell in enumerate(cells):
        number = matched.get(i)
        mask, origin = (np.zeros((0, 0), bool), (0, 0)) if number is None else masks[number - 1]
        own = truth[cell.y0 : cell.y1, cell.x0 : cell.x1] == cell.label
        shared = overlap(mask, own, origin, (cell.x0, cell.y0))
        if number is not None:
            ious[number] = shared.iou
        detail = score_cell(mask, origin, truth, cell.label, cell.box, areas)
        run.add_cell(cell, frame.split, shared, encode(mask, origin, shape), detail)
    return [
        found_row(frame.name, frame.split, number, bbox(mask, origin), encode(mask, origin, shape))
        | {"cell": of_object.get(number), "iou": ious.get(number)}
        for (number, _), (mask, origin) in zip(objects, masks, strict=True)
    ]


def _match(label: Labels, truth: LabelArray, cells: Sequence[int]) -> dict[int, int]:
    """Return the object that each matched cell is given by :func:`match`, by index of the cell."""
    pairs = shared_pixels(truth, label)
    place = {value: i for i, value in enumerate(cells)}
    rows = np.array([place.get(value, -1) for value in pairs.first_labels.tolist()], np.int64)[pairs.first]
    known = rows >= 0
    ious = np.zeros((len(cells), len(pairs.second_labels)))
    ious[rows[known], pairs.second[known]] = pairs.ious[known]
    partner = match(ious).partner
    return {i: int(pairs.second_labels[column]) for i, column in enumerate(partner) if column >= 0}
