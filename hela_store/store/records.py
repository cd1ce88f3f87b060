"""Rows of the tables of frames, cells and views as frozen records: a misspelt column is an error, not a None."""

from __future__ import annotations

import dataclasses
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.images.geometry import Rect

BATCH = 1024


class _Record:
    """A dataclass whose fields are columns of a table."""

    __slots__ = ()

    @classmethod
    def of(cls, table: pa.Table) -> Iterator[Self]:
        """Yield a record for each row of a table that has the columns of this record."""
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for batch in table.select(names).to_batches(max_chunksize=BATCH):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield cls(*row)


@dataclass(frozen=True, slots=True)
class FrameRecord(_Record):
    """An ingested frame: a row of :data:`~hela_store.store.tables.FRAMES_SCHEMA`.

    ``group`` and ``row`` say where its pixels are in the arrays; ``height`` and ``width`` are px. The sums are those of
    :func:`hela_store.base.sums.array_sum` over the frame's id and what is stored; None where an earlier version
    ingested it. ``look`` is what a still looks like (:mod:`hela_store.datasets.look_groups`); None of a time-lapse.
    """

    frame: str
    sequence: str
    name: str
    time: int
    height: int
    width: int
    dtype: str
    group: str
    row: int
    sha256: str
    has_label: bool
    partial: bool
    label_origin: str
    pixel_size_um: float | None
    is_blank: bool
    image_xxh3: str | None
    label_xxh3: str | None
    valid_xxh3: str | None
    look: bytes | None

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` px."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class CellRecord(_Record):
    """A labelled cell: a row of :data:`~hela_store.store.tables.CELLS_SCHEMA`; lengths in px, frame."""

    cell: str
    frame: str
    label: int
    area: int
    area_um2: float | None
    diameter: float
    x0: int
    y0: int
    x1: int
    y1: int
    cx: float
    cy: float
    eccentricity: float
    touches_neighbour: bool
    touches_border: bool
    mean_intensity: float
    round_trip_iou: float | None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x0, y0, x1, y1)`` px, frame; x1 and y1 exclusive."""
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True, slots=True)
class CellBox(_Record):
    """Hold the place of a labelled cell, as training reads it; px, frame, or px, view, of a variant."""

    cell: str
    frame: str
    label: int
    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``(x0, y0, x1, y1)`` px; x1 and y1 exclusive."""
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True, slots=True)
class ViewRecord(_Record):
    """A planned view: a row of :data:`~hela_store.store.tables.PLAN_SCHEMA`.

    ``lo`` and ``hi`` are normalisation limits in counts, ``params`` the variant's parameters as JSON, ``row`` its place
    in the arrays of embeddings.
    """

    view: str
    frame: str
    tile: int
    variant: int
    x0: int
    y0: int
    width: int
    height: int
    lo: float
    hi: float
    seed: int
    params: str
    row: int

    @property
    def rect(self) -> Rect:
        """``(x0, y0, width, height)`` px, frame."""
        return self.x0, self.y0, self.width, self.height

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` px of the frame that it shows."""
        return self.height, self.width


class FrameRecords(Mapping[str, FrameRecord]):
    """The records of a table of frames by frame id, in its order; each is made when it is asked for.

    A million frames as objects of Python would take more memory than all else that a store is read into.
    """

    def __init__(self, frames: pa.Table) -> None:
        self._frames = frames.select([field.name for field in dataclasses.fields(FrameRecord)])
        self._place: dict[str, int] | None = None

    @property
    def _places(self) -> dict[str, int]:
        if self._place is None:
            self._place = {frame: place for place, frame in enumerate(self._frames["frame"].to_pylist())}
        return self._place

    def __getitem__(self, frame: str) -> FrameRecord:
        place = self._places[frame]
        return FrameRecord(*(column[place].as_py() for column in self._frames.columns))

    def __contains__(self, frame: object) -> bool:
        return frame in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._frames)

    def values(self) -> ValuesView[FrameRecord]:
        """Return the records; a whole pass makes them many at a time."""
        return _Values(self)

    def items(self) -> ItemsView[str, FrameRecord]:
        """Return frame ids and records, as :meth:`values`."""
        return _Items(self)

    def all(self) -> Iterator[FrameRecord]:
        """Yield every record."""
        return FrameRecord.of(self._frames)


class _Values(ValuesView[FrameRecord]):
    def __init__(self, records: FrameRecords) -> None:
        super().__init__(records)
        self._records = records

    def __iter__(self) -> Iterator[FrameRecord]:
        return self._records.all()


class _Items(ItemsView[str, FrameRecord]):
    def __init__(self, records: FrameRecords) -> None:
        super().__init__(records)
        self._records = records

    def __iter__(self) -> Iterator[tuple[str, FrameRecord]]:
        return ((record.frame, record) for record in self._records.all())


OfFrame = TypeVar("OfFrame", CellRecord, CellBox, ViewRecord)


def by_frame(kind: type[OfFrame], table: pa.Table, frames: Iterable[str]) -> dict[str, list[OfFrame]]:
    """Return the records of some frames by frame, in the order of the table; an empty list for a frame without any."""
    records: dict[str, list[OfFrame]] = {frame: [] for frame in frames}
    for record in kind.of(table.filter(pc.is_in(table["frame"], value_set=pa.array(list(records), pa.string())))):
        records[record.frame].append(record)
    return records
