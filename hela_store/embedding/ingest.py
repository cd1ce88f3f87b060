"""From a data set to the store: frames into the arrays, frames and cells into ``ingest/*.parquet``.

Append-only. All files are read and checked before the first byte is written; then, in segments, the arrays come first
and the rows that name them last, so that a frame with a row is wholly there. A frame that was ingested before is
compared and skipped; one that changed is an error, because embeddings of the old one may exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hela_store.base.parquet import write_parquet
from hela_store.base.progress import Progress
from hela_store.datasets import CtcReader, FolderReader, open_dataset
from hela_store.datasets.doubts import LabelLook, doubts_of_labels, look_at_label
from hela_store.datasets.entries import Entry
from hela_store.datasets.frame import Frame, frame_digest
from hela_store.datasets.pixels import stored_dtype
from hela_store.errors import StoreError
from hela_store.images.geometry import tile_rectangles
from hela_store.store.tables import CELLS_SCHEMA, FRAMES_SCHEMA, ingested_frames

from .measure import CellScale, cell_scale, measure_cells

if TYPE_CHECKING:
    from hela_store.store.store import Store

__all__ = ["CellScale", "IngestReport", "cell_scale", "ingest", "ingested_frames", "measure_cells"]

SEGMENT_FRAMES = 2048
MOST_BELOW_BLACK = 0.5
"""Share of a frame's pixels below the black level from which there is a warning."""


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did.

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
        A frame, its labels or its pixel size changed since they were ingested, no space left, or no permission.
    """
    reader = open_dataset(store.recipe.dataset, store.path)
    known = {row["frame"]: row for row in ingested_frames(store.path).to_pylist()}
    new, notes = _check(store, reader, known, progress)
    places = _places(reader.entries, new, known)
    cells, blank = 0, []
    written = progress(new, total=len(new), what="ingest") if new else iter(())
    for segment in _segments(written, SEGMENT_FRAMES):
        frames = [_write_frame(store, reader.read(entry), places) for entry in segment]
        _write_segment(store.path, [row for row, _ in frames], [table for _, table in frames])
        cells += sum(table.num_rows for _, table in frames)
        blank += [str(row["frame"]) for row, _ in frames if row["is_blank"]]
    return IngestReport(new=len(new), unchanged=len(reader) - len(new), cells=cells, notes=notes, blank=tuple(blank))


def restore_frames(store: Store, frames: Collection[str]) -> None:
    """Read frames and labels that were damaged in the store from the data set again; those that differ are left alone.

    The arrays' own descriptions are written again where they are missing.
    """
    rows = {row["frame"]: row for row in ingested_frames(store.path).to_pylist()}
    places = {name: _Place(row["group"], row["row"], 0) for name, row in rows.items()}
    for row in rows.values():
        store.arrays.add_frame_group(row["group"], row["row"] + 1, (row["height"], row["width"]), row["dtype"])
    if not frames:
        return
    reader = open_dataset(store.recipe.dataset, store.path)
    for entry in reader.entries:
        if f"{entry.sequence}/{entry.name}" in frames:
            frame = reader.read(entry)
            if frame_digest(frame.image) == rows[frame.id]["sha256"]:
                _write_frame(store, frame, places)


def _check(
    store: Store, reader: CtcReader | FolderReader, known: dict[str, dict[str, Any]], progress: Progress
) -> tuple[list[Entry], tuple[str, ...]]:
    """Read every frame, compare those ingested before, return the others and what is odd about them."""
    new: list[Entry] = []
    looks: list[LabelLook] = []
    dark: list[str] = []
    for entry in progress(reader.entries, total=len(reader), what="check frames"):
        frame = reader.read(entry)
        if frame.id in known:
            _compare(store, frame, known[frame.id], entry.image.path)
        else:
            new.append(entry)
            if frame.label is not None:
                looks.append(look_at_label(frame.id, frame.label))
            is_blank = frame.image.min() == frame.image.max()
            if not is_blank and np.mean(frame.image < store.recipe.dataset.offset) > MOST_BELOW_BLACK:
                dark.append(frame.id)
    if not new:
        return new, ()
    notes = [*reader.notes, *doubts_of_labels(looks)]
    if dark:
        notes.append(
            f"most of {dark[0]}{f' and {len(dark) - 1} more frames' if len(dark) > 1 else ''} lies below the "
            f"black level {store.recipe.dataset.offset:g} and is black for the encoder; make a new store, in which "
            "`hela-store new` estimates it, or give it --offset"
        )
    return new, tuple(notes)


def _compare(store: Store, frame: Frame, row: dict[str, Any], path: Path) -> None:
    wayout = "restore it, or make a new store for the changed data with `hela-store new`"
    if frame_digest(frame.image) != row["sha256"]:
        raise StoreError(f"frame {frame.id} ({path}) changed since it was ingested; {wayout}")
    if frame.label_origin != row["label_origin"]:
        before, now = row["label_origin"] or "none", frame.label_origin or "none"
        raise StoreError(f"frame {frame.id} was ingested with labels {before}, now they are {now}; {wayout}")
    before = row["pixel_size_um"]
    # earlier versions stored a pixel size of NaN where the metadata said that: it is unknown as well
    if frame.pixel_size_um != (None if before is not None and np.isnan(before) else before):
        raise StoreError(
            f"frame {frame.id} was ingested with a pixel size of {row['pixel_size_um']} um, now it is "
            f"{frame.pixel_size_um} um; {wayout}"
        )
    where = (row["group"], row["row"])
    same = frame.label is None or np.array_equal(frame.label, store.arrays.label(*where))
    if not same or not np.array_equal(frame.valid, store.arrays.valid(*where)):
        raise StoreError(f"the labels of frame {frame.id} or its field of interest changed since ingest; {wayout}")


@dataclass(frozen=True)
class _Place:
    group: str
    row: int
    rows: int
    """How many rows the group needs in all."""


def _places(entries: Iterable[Entry], new: list[Entry], known: dict[str, dict[str, Any]]) -> dict[str, _Place]:
    """Return where each new frame goes: its array group and row.

    A group is named by its sequence where all its frames have one size and type, else ``<sequence>@<h>x<w>`` (with the
    type where one size occurs in several). Groups made by an earlier ingest keep their names.
    """
    kinds: dict[str, set[tuple[tuple[int, int], str]]] = {}
    for entry in entries:
        kinds.setdefault(entry.sequence, set()).add(_kind(entry))
    groups = {(r["sequence"], (r["height"], r["width"]), r["dtype"]): r["group"] for r in known.values()}
    rows: dict[str, int] = {}
    for r in known.values():
        rows[r["group"]] = max(rows.get(r["group"], 0), r["row"] + 1)
    chosen: dict[str, tuple[str, int]] = {}
    for entry in new:
        shape, dtype = _kind(entry)
        group = groups.get((entry.sequence, shape, dtype))
        if group is None:
            group = _group_name(entry.sequence, shape, dtype, kinds[entry.sequence], set(groups.values()))
            groups[entry.sequence, shape, dtype] = group
        chosen[f"{entry.sequence}/{entry.name}"] = (group, rows.get(group, 0))
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


def _segments(entries: Iterable[Entry], size: int) -> Iterable[list[Entry]]:
    segment: list[Entry] = []
    for entry in entries:
        segment.append(entry)
        if len(segment) == size:
            yield segment
            segment = []
    if segment:
        yield segment


def _write_frame(store: Store, frame: Frame, places: dict[str, _Place]) -> tuple[dict[str, Any], pa.Table]:
    """Write one frame's arrays durably; return its row and its cells."""
    place, views = places[frame.id], store.recipe.views
    height, width = frame.image.shape
    store.arrays.add_frame_group(place.group, place.rows, (height, width), frame.image.dtype)
    # An interrupted ingest of other labels may have left some in this row, so that none are written as zeros.
    label = np.zeros((height, width), np.int32) if frame.label is None else frame.label
    store.arrays.write_frame(place.group, place.row, frame.image, label, frame.valid)
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
    }
    return row, measure_cells(frame, tiles, store.recipe.dataset.offset)


def _write_segment(path: Path, rows: list[dict[str, Any]], cells: list[pa.Table]) -> None:
    """Write one segment; cells first, so that a frame with a row has its cells."""
    folder = path / "ingest"
    number = len(list(folder.glob("frames-*.parquet"))) + 1
    write_parquet(folder / f"cells-{number:04}.parquet", pa.concat_tables([CELLS_SCHEMA.empty_table(), *cells]))
    write_parquet(folder / f"frames-{number:04}.parquet", pa.Table.from_pylist(rows, schema=FRAMES_SCHEMA))
