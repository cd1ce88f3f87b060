"""Apply an event to the label image of its frame, and say what that changes: pixels and measured cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.sums import array_sum
from hela_store.datasets.frame import Frame
from hela_store.errors import LabelError
from hela_store.images import rle
from hela_store.images.geometry import Rect, tile_rectangles
from hela_store.images.labels import field_of_interest
from hela_store.store.label_changes import Change, Patches, apply_patches
from hela_store.store.measure import measure_cells
from hela_store.store.records import CellRecord, FrameRecord
from hela_store.store.store import Store

from .events import LabelEvent

Label = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class FrameLabels:
    """The labels of a frame, int32, (row, col), whether it counts as labelled, and whether only in part."""

    label: Label
    has_label: bool
    partial: bool


def change_of(
    store: Store, record: FrameRecord, image: npt.NDArray[Any], now: FrameLabels, event: LabelEvent
) -> tuple[FrameLabels, Change]:
    """Return the labels of a frame after an event, and the change.

    Raises
    ------
    LabelError
        The event does not fit the labels: an unknown cell, a label that is taken, or no pixel left for a cell.
    """
    label = apply_event(now.label, event)
    _check_band(label, event, store.recipe.dataset.field_of_interest)
    if event.kind == "complete":
        after = FrameLabels(label=label, has_label=True, partial=False)
    else:
        # a frame without labels has only some of its cells labelled until a person says that these are all
        had = now.has_label
        after = FrameLabels(label=label, has_label=had or bool(label.any()), partial=now.partial if had else True)
    return after, _difference(store, record, image, now.label, after)


def revert(
    store: Store,
    record: FrameRecord,
    image: npt.NDArray[Any],
    now: FrameLabels,
    undone: tuple[Sequence[Change], tuple[bool, bool]],
) -> tuple[FrameLabels, Change]:
    """Return the labels of a frame without its changes of one version, and the change that this is.

    ``undone`` holds these changes, and whether the frame had labels, and only some, before them.
    """
    changes, (has_label, partial) = undone
    label = now.label.copy()
    for change in reversed(changes):
        apply_patches(label, change.before)
    after = FrameLabels(label=label, has_label=has_label, partial=partial)
    return after, _difference(store, record, image, now.label, after)


def repeat(
    store: Store, record: FrameRecord, image: npt.NDArray[Any], now: FrameLabels, changes: Sequence[Change]
) -> tuple[FrameLabels, Change]:
    """Return the labels of a frame with its changes of one version made again, and the change that this is."""
    label = now.label.copy()
    for change in changes:
        apply_patches(label, change.patches)
    after = FrameLabels(label=label, has_label=changes[-1].has_label, partial=changes[-1].partial)
    return after, _difference(store, record, image, now.label, after)


def apply_event(label: Label, event: LabelEvent) -> Label:
    """Return the label image after an event that has no target, int32, (row, col).

    Where masks of one event overlap, the first one has the pixel.

    Raises
    ------
    LabelError
        As :func:`change_of`.
    """
    if event.kind == "complete":
        return label
    shape = (label.shape[0], label.shape[1])
    there = set(np.unique(label[np.isin(label, event.cells)]).tolist())
    _check_cells(event, there)
    own = np.isin(label, event.cells)
    after = label.copy()
    after[own] = event.cells[0] if event.kind == "merge" else 0
    for cell, mask in zip(event.cells, event.masks, strict=False):
        pixels, (x, y) = rle.decode(mask, shape)
        part = after[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        part[pixels & (part == 0)] = cell
    if event.kind != "erase":
        left = set(np.unique(after[after > 0]).tolist())
        wanted = event.cells[:1] if event.kind == "merge" else event.cells
        if lost := [cell for cell in wanted if cell not in left]:
            raise LabelError(
                f"cell {lost[0]} of frame {event.frame} would have no pixel: other cells have all of its mask; name "
                "these cells in the same event, or erase them first"
            )
    return after


def _check_cells(event: LabelEvent, there: set[int]) -> None:
    """Raise LabelError unless the cells exist that must, and those do not that must not."""
    known = {"add": (), "split": event.cells[:1]}.get(event.kind, event.cells)
    new = [cell for cell in event.cells if cell not in known]
    if missing := [cell for cell in known if cell not in there]:
        raise LabelError(f"frame {event.frame} has no cell {missing[0]} to {event.kind}; reload the frame")
    if taken := [cell for cell in new if cell in there]:
        raise LabelError(f"frame {event.frame} has a cell {taken[0]} already; replace it, or choose a free label")


def _check_band(label: Label, event: LabelEvent, band: int) -> None:
    if band == 0 or event.kind in ("erase", "complete"):
        return
    inner = field_of_interest((label.shape[0], label.shape[1]), band)
    for cell in event.cells[:1] if event.kind == "merge" else event.cells:
        if not (inner & (label == cell)).any():
            raise LabelError(
                f"cell {cell} of frame {event.frame} lies wholly in the outer band of {band} px, in which cells carry "
                "no label (dataset.field_of_interest)"
            )


def _difference(
    store: Store, record: FrameRecord, image: npt.NDArray[Any], before: Label, after: FrameLabels
) -> Change:
    """Return the change from one label image of a frame to another, with the cells that it touches."""
    label, changed = after.label, before != after.label
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    cells: list[CellRecord] = []
    gone: set[int] = set()
    patches: Patches = ()
    reverse: Patches = ()
    if rows.size:
        part: Rect = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        crop = _slices(part)
        patches, reverse = (_patches(image_[crop], changed[crop], part, record.shape) for image_ in (label, before))
        near = _slices(_wider(part, record.shape))
        # a neighbour may begin or cease to be touched
        touched = ({*np.unique(label[near]).tolist()} | {*np.unique(before[changed]).tolist()}) - {0}
        present = np.isin(label, list(touched))
        gone = touched - set(np.unique(label[present]).tolist())
        if present.any():
            cells = _measure(store, record, image, label, (present, touched - gone))
    return Change(
        frame=record.frame,
        patches=patches,
        before=reverse,
        cells=tuple(cells),
        gone=tuple(sorted(gone)),
        sum=array_sum(record.frame, label),
        has_label=after.has_label,
        partial=after.partial,
    )


def _measure(
    store: Store,
    record: FrameRecord,
    image: npt.NDArray[Any],
    label: Label,
    only: tuple[npt.NDArray[np.bool_], set[int]],
) -> list[CellRecord]:
    """Measure some cells of a frame; ``only`` has their pixels, bool, (row, col), and their labels."""
    x0, y0, x1, y1 = rle.bbox(only[0])
    rect = _wider((x0, y0, x1 - x0, y1 - y0), record.shape)
    views = store.recipe.views
    frame = Frame(
        sequence=record.sequence,
        name=record.name,
        time=record.time,
        image=image,
        label=label,
        valid=only[0],
        pixel_size_um=record.pixel_size_um,
    )
    tiles = tile_rectangles(record.shape, views.tile, views.overlap)
    return list(CellRecord.of(measure_cells(frame, tiles, store.recipe.dataset.offset, (rect, only[1]))))


def _patches(label: Label, changed: npt.NDArray[np.bool_], part: Rect, shape: tuple[int, int]) -> Patches:
    """Return the labels of changed pixels as run-length codes; label and changed are the frame's part at ``part``."""
    values = np.unique(label[changed]).tolist()
    return tuple((value, rle.encode(changed & (label == value), part[:2], shape).counts) for value in values)


def _wider(rect: Rect, shape: tuple[int, int]) -> Rect:
    """Return a rectangle with a pixel more on every side that is within the frame."""
    x0, y0, width, height = rect
    left, top = max(x0 - 1, 0), max(y0 - 1, 0)
    return left, top, min(x0 + width + 1, shape[1]) - left, min(y0 + height + 1, shape[0]) - top


def _slices(rect: Rect) -> tuple[slice, slice]:
    x0, y0, width, height = rect
    return slice(y0, y0 + height), slice(x0, x0 + width)
