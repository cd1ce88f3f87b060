"""From a data set to the store: frames into the arrays, frames and cells into ``ingest/*.parquet``.

Append-only. All files are read and checked before the first byte is written; then, in segments, the arrays come first
and the rows that name them last, so that a frame with a row is wholly there. A frame that was ingested before is
compared and skipped; one that changed is an error, because embeddings of the old one may exist. Labels that changed
become a new version of the labels (:mod:`hela_store.embedding.relabel`). A frame is its id and its pixels: files that
come later move no other frame in time, and a renamed file is not taken for a new frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hela_store.base.names import check_name
from hela_store.base.parquet import write_parquet
from hela_store.base.progress import Progress
from hela_store.base.sums import array_sum
from hela_store.datasets import CtcReader, FolderReader, open_dataset
from hela_store.datasets.doubts import LabelLook, doubts_of_labels, look_at_label
from hela_store.datasets.entries import Entry
from hela_store.datasets.frame import Frame, frame_digest
from hela_store.datasets.look_groups import look_of
from hela_store.datasets.pixels import stored_dtype
from hela_store.errors import DatasetError, StoreError
from hela_store.images.geometry import tile_rectangles
from hela_store.store.measure import measure_cells
from hela_store.store.records import FrameRecord
from hela_store.store.tables import CELLS_SCHEMA, FRAMES_SCHEMA

from .measure import CellScale, cell_scale
from .relabel import ChangedLabels

if TYPE_CHECKING:
    from hela_store.store.store import Store

__all__ = ["CellScale", "IngestReport", "cell_scale", "ingest"]

SEGMENT_FRAMES = 2048
MOST_BELOW_BLACK = 0.5
"""Share of a frame's pixels below the black level from which there is a warning."""


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Result of one ingest.

    Attributes
    ----------
    new, unchanged : int
        Frames written, and frames that were there already.
    cells : int
        Cells in the new frames.
    notes : tuple of str
        What is odd about the new frames, their labels or their files, in words.
    blank : tuple of str
        Ids of new frames that hold one value only; they are embedded all the same.
    """

    new: int
    unchanged: int
    cells: int
    notes: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()


def ingest(store: Store, progress: Progress) -> IngestReport:
    """Bring all frames of the recipe's data set into the store; what is there already is only compared.

    Raises
    ------
    DatasetError
        The data set cannot be used as it is; nothing was written.
    StoreError
        A frame or its pixel size changed since it was ingested, a file was renamed, two frames of a sequence have one
        time, another process changes labels, no space left, or no permission.
    """
    reader = open_dataset(store.recipe.dataset, store.path, progress)
    known, relabelled = store.at_labels(0).known_frames(), ChangedLabels(store)
    new, notes = _check(relabelled, reader, known, progress)
    places = _places(reader.entries, new, known)
    cells, blank = 0, []
    written = (_write_frame(store, reader.read(entry), places) for entry in new)
    shown = progress(written, total=len(new), what="ingest") if new else iter(())
    while frames := list(itertools.islice(shown, SEGMENT_FRAMES)):
        _write_segment(store, [row for row, _ in frames], [table for _, table in frames])
        cells += sum(table.num_rows for _, table in frames)
        blank += [str(row["frame"]) for row, _ in frames if row["is_blank"]]
    notes += relabelled.take_in()
    return IngestReport(new=len(new), unchanged=len(reader) - len(new), cells=cells, notes=notes, blank=tuple(blank))


def restore_frames(store: Store, frames: Collection[str]) -> None:
    """Read frames and labels that were damaged in the store from the data set again; those that differ are left alone.

    The arrays' own descriptions are written again where they are missing.
    """
    records = store.at_labels(0).known_frames()
    for record in records.values():
        store.arrays.add_frame_group(record.group, record.row + 1, record.shape, record.dtype)
    if not frames:
        return
    reader = open_dataset(store.recipe.dataset, store.path)
    for entry in reader.entries:
        if entry.id in frames:
            frame = reader.read(entry)
            record, parts = records[frame.id], _parts(frame)
            if frame_digest(frame.image) == record.sha256 and _sums(frame.id, parts) == _sums_of(record, parts):
                store.arrays.write_frame(record.group, record.row, *parts.values())


def _check(
    relabelled: ChangedLabels, reader: CtcReader | FolderReader, known: Mapping[str, FrameRecord], progress: Progress
) -> tuple[list[Entry], tuple[str, ...]]:
    """Read every frame, compare those ingested before; return the others, with their times, and what is odd."""
    store = relabelled.store
    new: list[Entry] = []
    looks: list[LabelLook] = []
    dark: list[str] = []
    gone = known.keys() - {entry.id for entry in reader.entries}
    renamed = {known[frame].sha256: frame for frame in sorted(gone) if not known[frame].is_blank}
    for entry in progress(reader.entries, total=len(reader), what="check frames"):
        check_name(entry.sequence, "the sequence", DatasetError)
        check_name(entry.name, f"{entry.sequence}: the frame", DatasetError)
        frame = reader.read(entry)
        if frame.id in known:
            _compare(store.at_labels(0), frame, known[frame.id], entry.image.path)
            relabelled.look_at(frame, entry)
            continue
        if renamed and (before := renamed.get(frame_digest(frame.image))):
            raise StoreError(
                f"{entry.image.path} has the pixels of frame {before}, which was ingested before and is no longer in "
                "the data set; give the file its old name again, or make a new store with `hela-store new`"
            )
        new.append(entry)
        if frame.label is not None:
            looks.append(look_at_label(frame.id, frame.label))
        is_blank = frame.image.min() == frame.image.max()
        if not is_blank and np.mean(frame.image < store.recipe.dataset.offset) > MOST_BELOW_BLACK:
            dark.append(frame.id)
    notes = [*reader.notes, *doubts_of_labels(looks), *_too_dark(dark, store.recipe.dataset.offset)] if new else []
    return in_free_times(new, known.values(), store.recipe.dataset.stills), tuple(notes)


def _too_dark(frames: list[str], offset: float) -> list[str]:
    if not frames:
        return []
    more = f" and {len(frames) - 1} more frames" if len(frames) > 1 else ""
    return [
        f"most of {frames[0]}{more} lies below the black level {offset:g} and is black for the encoder; make a new "
        "store, in which `hela-store new` estimates it, or give it --offset"
    ]


def in_free_times(entries: Iterable[Entry], known: Iterable[FrameRecord], stills: bool) -> list[Entry]:
    """Return new frames with times that no other frame of their sequence has.

    The time of a still is a running number: those that come later are counted on from the largest there is, because
    the times of ingested frames never change. The time of any other frame is in its name.

    Parameters
    ----------
    entries : frames that are not ingested yet, in their order
    known : those that are
    stills : whether the frames are single images, not a sequence in time

    Raises
    ------
    StoreError
        A frame of a time-lapse has the time of another.
    """
    taken = {(record.sequence, record.time): record.frame for record in known}
    free: dict[str, int] = {}
    for sequence, time in taken:
        free[sequence] = max(free.get(sequence, 0), time + 1)
    found = []
    for entry in entries:
        if stills:
            time = free.setdefault(entry.sequence, 0)
            free[entry.sequence] += 1
            found.append(replace(entry, time=time))
            continue
        other = taken.setdefault((entry.sequence, entry.time), entry.id)
        if other != entry.id:
            raise StoreError(
                f"{entry.image.path}: frame {entry.id} is number {entry.time} of sequence {entry.sequence}, and so is "
                f"{other}, which was ingested before; give the file its old name again, or make a new store with "
                "`hela-store new`"
            )
        found.append(entry)
    return found


def _compare(store: Store, frame: Frame, known: FrameRecord, path: Path) -> None:
    wayout = "restore it, or make a new store for the changed data with `hela-store new`"
    if frame_digest(frame.image) != known.sha256:
        raise StoreError(f"frame {frame.id} ({path}) changed since it was ingested; {wayout}")
    if frame.label_origin != known.label_origin and known.label_origin:
        before, now = known.label_origin or "none", frame.label_origin or "none"
        raise StoreError(f"frame {frame.id} was ingested with labels {before}, now they are {now}; {wayout}")
    size = known.pixel_size_um
    # earlier versions stored a pixel size of NaN where the metadata said that: it is unknown as well
    if frame.pixel_size_um != (None if size is not None and np.isnan(size) else size):
        raise StoreError(
            f"frame {frame.id} was ingested with a pixel size of {known.pixel_size_um} um, now it is "
            f"{frame.pixel_size_um} um; {wayout}"
        )
    if frame.partial or frame.label is None or not known.label_origin:
        return  # where the labels say something follows from them alone
    unlabelled = (frame.label == 0) & (store.pixels.label(frame.id) == 0)
    if not np.array_equal(frame.valid[unlabelled], store.pixels.valid(frame.id)[unlabelled]):
        raise StoreError(
            f"where the labels of frame {frame.id} say nothing is not as it was ingested (dataset.field_of_interest, "
            f"or where hand-drawn and reference labels disagree); {wayout}"
        )


@dataclass(frozen=True)
class _Place:
    group: str
    row: int
    rows: int
    """How many rows the group needs in all."""


def _places(entries: Iterable[Entry], new: list[Entry], known: Mapping[str, FrameRecord]) -> dict[str, _Place]:
    """Return where each new frame goes: its array group and row.

    A group is named by its sequence where all its frames have one size and type, else ``<sequence>@<h>x<w>`` (with the
    type where one size occurs in several). Groups made by an earlier ingest keep their names.
    """
    kinds: dict[str, set[tuple[tuple[int, int], str]]] = {}
    for entry in entries:
        kinds.setdefault(entry.sequence, set()).add(_kind(entry))
    groups = {(r.sequence, r.shape, r.dtype): r.group for r in known.values()}
    rows: dict[str, int] = {}
    for r in known.values():
        rows[r.group] = max(rows.get(r.group, 0), r.row + 1)
    chosen: dict[str, tuple[str, int]] = {}
    for entry in new:
        shape, dtype = _kind(entry)
        group = groups.get((entry.sequence, shape, dtype))
        if group is None:
            group = _group_name(entry.sequence, shape, dtype, kinds[entry.sequence], set(groups.values()))
            groups[entry.sequence, shape, dtype] = group
        chosen[entry.id] = (group, rows.get(group, 0))
        rows[group] = rows.get(group, 0) + 1
    return {frame: _Place(group, row, rows[group]) for frame, (group, row) in chosen.items()}


def _kind(entry: Entry) -> tuple[tuple[int, int], str]:
    return entry.image.shape, stored_dtype(entry.image.dtype).name


def _group_name(
    sequence: str, shape: tuple[int, int], dtype: str, kinds: set[tuple[tuple[int, int], str]], taken: set[str]
) -> str:
    if len(kinds) == 1 and sequence not in taken:
        return sequence
    name = f"{sequence}@{shape[0]}x{shape[1]}"
    mixed = len({kind for size, kind in kinds if size == shape}) > 1
    return f"{name}-{dtype}" if mixed or name in taken else name


def _write_frame(store: Store, frame: Frame, places: dict[str, _Place]) -> tuple[dict[str, Any], pa.Table]:
    """Write one frame's arrays durably; return its row and its cells."""
    place, views = places[frame.id], store.recipe.views
    height, width = frame.image.shape
    store.arrays.add_frame_group(place.group, place.rows, (height, width), frame.image.dtype)
    parts = _parts(frame)
    store.arrays.write_frame(place.group, place.row, *parts.values())
    tiles = tile_rectangles((height, width), views.tile, views.overlap)
    row = {
        "frame": frame.id,
        "sequence": frame.sequence,
        "name": frame.name,
        "time": frame.time,
        "height": height,
        "width": width,
        "dtype": frame.image.dtype.name,
        "group": place.group,
        "row": place.row,
        "sha256": frame_digest(frame.image),
        "has_label": frame.label is not None,
        "partial": frame.partial,
        "label_origin": frame.label_origin,
        "pixel_size_um": frame.pixel_size_um,
        "is_blank": bool(frame.image.min() == frame.image.max()),
        **_sums(frame.id, parts),
        "look": look_of(frame.image) if store.recipe.dataset.stills else None,
    }
    return row, measure_cells(frame, tiles, store.recipe.dataset.offset)


def _parts(frame: Frame) -> dict[str, npt.NDArray[Any]]:
    """Return image, label and valid pixels of a frame as they are stored, in the order of ``Arrays.write_frame``."""
    # an interrupted ingest of other labels may have left some in this row, so that none are written as zeros
    label = np.zeros(frame.image.shape, np.int32) if frame.label is None else frame.label.astype(np.int32, copy=False)
    return {"image": frame.image, "label": label, "valid": frame.valid}


def _sums(frame: str, parts: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    return {f"{name}_xxh3": array_sum(frame, part) for name, part in parts.items()}


def _sums_of(record: FrameRecord, parts: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    """Return the sums that ingest wrote down; those of ``parts`` where an earlier version wrote none."""
    return {name: getattr(record, name) or sum_ for name, sum_ in _sums(record.frame, parts).items()}


def _write_segment(store: Store, rows: list[dict[str, Any]], cells: list[pa.Table]) -> None:
    """Write one segment; cells first, so that a frame with a row has its cells."""
    folder = store.path / "ingest"
    # not their count: where a segment was lost, the next one must not take the place of the last
    names = [path.stem.removeprefix("frames-") for path in folder.glob("frames-*.parquet")]
    number = max((int(name) for name in names if name.isdecimal()), default=0) + 1
    paths = [folder / f"{what}-{number:04}.parquet" for what in ("cells", "frames")]
    write_parquet(paths[0], pa.concat_tables([CELLS_SCHEMA.empty_table(), *cells]))
    write_parquet(paths[1], pa.Table.from_pylist(rows, schema=FRAMES_SCHEMA))
    store.sums.add(paths)
