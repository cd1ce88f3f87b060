"""Stored frames by their ids: image, labels and valid pixels, compared with the sums that ingest wrote down.

Labels are those of one version: as ingested, with the changes that the label log made since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.sums import array_sum
from hela_store.datasets.frame import frame_digest
from hela_store.errors import BucketError, StoreError
from hela_store.images.geometry import Rect
from hela_store.images.labels import valid_pixels

from .arrays import Arrays, frame_chunk
from .label_changes import FrameState
from .records import FrameRecord
from .storage import read_right

REPAIR = "`hela-store verify --repair` reads it again from the data set"
Areas = Mapping[str, Mapping[int, int]]
"""Area, px, of every cell by frame and label."""


class Pixels:
    """The arrays of ingested frames.

    What is read is compared with the frame's sums. Frames that were ingested before there were sums are compared once
    in a process: the image with its sha256, the labels with the areas of their cells.

    Parameters
    ----------
    arrays : Arrays
    records : frames by id, as they were ingested
    areas : called at most once, for frames without sums
    states : frames whose labels are not as ingested, by id
    band : width of the outer band in which cells carry no label, px
    """

    def __init__(
        self,
        arrays: Arrays,
        records: Mapping[str, FrameRecord],
        areas: Callable[[], Areas],
        states: Mapping[str, FrameState],
        band: int,
    ) -> None:
        self._arrays, self._records, self._make_areas = arrays, records, areas
        self._states, self._band = states, band
        self._differences: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = {}
        self._areas: Areas | None = None
        self._compared: set[tuple[str, str]] = set()

    def image(self, frame: str, rect: Rect | None = None) -> npt.NDArray[Any]:
        """Return a frame's image as acquired, or the part of it in ``rect`` (x0, y0, width, height px), (row, col).

        Raises
        ------
        StoreError
            It is lost, damaged, or not the one that was ingested.
        """
        return self._read("image", frame, rect)

    def label(self, frame: str, rect: Rect | None = None) -> LabelArray:
        """Return a frame's labels, int32, (row, col), 0 is background; as :meth:`image`."""
        if frame not in self._states:
            return self._read("label", frame, rect)
        return cut_out(self._changed_label(frame), rect)

    def valid(self, frame: str, rect: Rect | None = None) -> BoolArray:
        """Return where a frame's labels say something, bool, (row, col); as :meth:`image`."""
        if frame not in self._states:
            return self._read("valid", frame, rect)
        state, record = self._states[frame].last, self._records[frame]
        label = self._changed_label(frame) if state.has_label else None
        valid = valid_pixels(label, record.shape, self._band, partial=state.partial)
        if label is not None and not state.partial and record.has_label and not record.partial:
            # where hand-drawn and reference labels disagree only ingest knew
            valid &= self._read("valid", frame, None) | np.asarray(label > 0)
        return cut_out(valid, rect)

    def _changed_label(self, frame: str) -> LabelArray:
        """Return the whole label image of a frame whose labels are not as ingested.

        It is compared with its sum when its changes are read; after that it follows from these and from what was
        ingested, which has a sum of its own.
        """
        label = self._read("label", frame, None).astype(np.int32, copy=True)
        state = self._states[frame]
        is_new = frame not in self._differences
        if is_new:
            self._differences[frame] = state.difference(label)
        index, values = self._differences[frame]
        label.ravel()[index] = values
        if not is_new and self._records[frame].label_xxh3 is None and array_sum(frame, label) != state.last.sum:
            raise StoreError(f"the labels of frame {frame} changed while they were read; run the command again")
        return label

    def fault(self, name: str, frame: str) -> str | None:
        """Say what is wrong with the ``"image"``, ``"label"`` or ``"valid"`` of a frame, None where nothing is.

        Raises
        ------
        BucketError
            It cannot be said, because the bucket does not answer.
        """
        try:
            self._read(name, frame, None)
        except BucketError:
            raise
        except StoreError as error:
            return str(error)
        return None

    def _read(self, name: str, frame: str, rect: Rect | None) -> npt.NDArray[Any]:
        record, storage = self._records[frame], self._arrays.storage
        chunk = frame_chunk(record.group, name, record.row)

        def compared() -> npt.NDArray[Any]:
            whole = self._stored(name, record)
            if whole is None:
                raise StoreError(f"{storage.root}/{chunk} is not there; {REPAIR}")
            if not self._is_right(name, record, whole):
                raise StoreError(f"{storage.root}/{chunk} is not the one that was ingested; {REPAIR}")
            return whole

        whole = read_right(storage, [chunk], f"the {name} of frame {frame}", compared)
        return cut_out(whole, rect)

    def _stored(self, name: str, record: FrameRecord) -> npt.NDArray[Any] | None:
        whole = self._arrays.frame_part(record.group, record.row, name)
        if whole is None and name == "label" and not record.has_label:
            # stores of the first versions wrote no labels where there are none
            return np.zeros(record.shape, np.int32)
        return whole

    def _is_right(self, name: str, record: FrameRecord, whole: npt.NDArray[Any]) -> bool:
        expected = getattr(record, f"{name}_xxh3")
        if expected is not None:
            return array_sum(record.frame, whole) == expected
        if (name, record.frame) in self._compared:
            return True
        right = True
        if name == "image":
            right = frame_digest(whole) == record.sha256
        elif name == "label":
            if self._areas is None:
                self._areas = self._make_areas()
            there = dict(zip(*(part.tolist() for part in np.unique(whole, return_counts=True)), strict=True))
            # an object in the outer band is no cell, so that there may be more labels than cells
            right = all(there.get(label) == area for label, area in self._areas.get(record.frame, {}).items())
        if right:
            self._compared.add((name, record.frame))
        return right


def cut_out(whole: npt.NDArray[Any], rect: Rect | None) -> npt.NDArray[Any]:
    """Return the part of an array, (row, col), in ``rect`` (x0, y0, width, height px); all of it where None."""
    if rect is None:
        return whole
    x0, y0, width, height = rect
    return np.ascontiguousarray(whole[y0 : y0 + height, x0 : x0 + width])
