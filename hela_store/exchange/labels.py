"""Labels as TIFFs named as the Cell Tracking Challenge does: ``<sequence>_ST/SEG/man_seg012.tif``.

Frames in which every cell is labelled go into ``_ST``, which readers take as complete; frames of which people labelled
only some cells go into ``_GT``, where ground without a label says nothing.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hela_store.base.names import inside
from hela_store.base.progress import Progress, silent
from hela_store.datasets.entries import probe_label
from hela_store.datasets.pixels import read_label
from hela_store.errors import LabelError
from hela_store.images.labels import apply_field_of_interest
from hela_store.labels.events import FILE, LabelEvent
from hela_store.labels.files import complete_event, counted, events_between
from hela_store.labels.log import LabelLog
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

from .target import Targets

HIGHEST = 65535
COMPLETE, PARTIAL = "ST", "GT"
_FOLDER = re.compile(r"(.+)_(ST|GT)")
_FILE = re.compile(r"man_seg(\d+)\.tiff?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LabelsExport:
    """Result of an export of labels: the version, the folders, and the file of each frame by its id."""

    version: int
    folders: tuple[Path, ...]
    files: dict[str, Path]

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store labels export --json`` prints."""
        files = {frame: str(path) for frame, path in self.files.items()}
        return {"version": self.version, "folders": [str(path) for path in self.folders], "files": files}


@dataclass(frozen=True, kw_only=True)
class LabelsImport:
    """Result of an import of labels.

    Attributes
    ----------
    version : int
        The version of the labels now.
    frames : tuple of str
        Frames that changed; none where all labels were the same.
    compared : int
        How many files were read.
    cells : str
        How many cells changed, in words.
    """

    version: int
    frames: tuple[str, ...]
    compared: int
    cells: str

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store labels import --json`` prints."""
        return {"version": self.version, "frames": list(self.frames), "compared": self.compared, "cells": self.cells}


def export_labels(store: Store, out: Path, *, progress: Progress = silent) -> LabelsExport:
    """Write the labels of all frames that have some, at the version that the store reads, as uint16 TIFFs.

    Parameters
    ----------
    store : Store
        As from :meth:`Store.at_labels`.
    out : Path
        Folder that gets a folder for each sequence, whole or not at all; another one must not be there yet.

    Raises
    ------
    AlreadyComplete
        All of it is there already.
    LabelError
        No frame has labels, or a label is above 65,535.
    RunError
        Another folder is there.
    StoreError
        No space, no permission, or damaged labels.
    """
    records = [record for record in store.frame_records().values() if record.has_label]
    if not records:
        raise LabelError(f"no frame of {store.path} has labels at version {store.labels_version}; nothing to export")
    targets, folders, files = Targets(), {}, {}
    with ExitStack() as stack:
        for record in progress(records, total=len(records), what="export labels"):
            name = f"{record.sequence}_{PARTIAL if record.partial else COMPLETE}"
            if name not in folders:
                folders[name] = stack.enter_context(targets.folder(inside(out, name, what="the sequence")))
                (folders[name] / "SEG").mkdir()
            label = store.pixels.label(record.frame)
            if label.max(initial=0) > HIGHEST:
                raise LabelError(
                    f"frame {record.frame} has a cell {label.max()}; TIFFs of the challenge hold labels up to {HIGHEST}"
                )
            file = f"man_seg{record.time:03d}.tif"
            tifffile.imwrite(folders[name] / "SEG" / file, label.astype(np.uint16), compression="zlib")
            files[record.frame] = out / name / "SEG" / file
    targets.finish()
    return LabelsExport(version=store.labels_version, folders=tuple(out / name for name in folders), files=files)


def import_labels(store: Store, source: Path, *, who: str = "import", progress: Progress = silent) -> LabelsImport:
    """Take the labels of a folder, as :func:`export_labels` writes it, as a new version; frames without a file stay.

    Parameters
    ----------
    store : Store
    source : Path
    who : str
        Who made the labels.

    Raises
    ------
    DatasetError
        A file is no label image, or of another size than its frame.
    LabelError
        There is no label file, one is of no frame of the store, or a frame has two.
    StoreError
        Another process changes labels, no space, or no permission; nothing was written.
    """
    if who == FILE:
        raise LabelError(f"who is {FILE!r}, which stands for label files of the data set; give a name")
    store = store.at_labels()
    files = _files(store, source)
    events: list[LabelEvent] = []
    band = store.recipe.dataset.field_of_interest
    for record, path in progress(list(files.values()), total=len(files), what="import labels"):
        planes = probe_label(path)
        if len(planes) != 1 or planes[0].shape != record.shape:
            found = f"{len(planes)} images" if len(planes) != 1 else "{} x {} px".format(*planes[0].shape)
            raise LabelError(f"{path} holds {found}, expected one of {record.height} x {record.width} px")
        label = apply_field_of_interest(read_label(planes[0]), band)
        if path.parent.parent.name.endswith(f"_{PARTIAL}") and record.has_label and not record.partial:
            raise LabelError(
                f"{path} has only some cells by its folder's name, and all cells of frame {record.frame} are labelled; "
                f"put it into {record.sequence}_{COMPLETE} if it has all of them"
            )
        made = events_between(record.frame, store.pixels.label(record.frame), label, who=who, reason=str(path))
        if made and path.parent.parent.name.endswith(f"_{COMPLETE}") and (record.partial or not record.has_label):
            made.append(complete_event(made[0]))
        events += made
    frames = tuple(dict.fromkeys(event.frame for event in events))
    version = store.labels_version
    if events:
        with LabelLog(store) as log:
            if log.version != version:
                raise LabelError(f"the labels became version {log.version} meanwhile; run the same command again")
            version = log.append(events)
    return LabelsImport(version=version, frames=frames, compared=len(files), cells=counted(events))


def _files(store: Store, source: Path) -> dict[str, tuple[FrameRecord, Path]]:
    """Return the label file of each frame in a folder, by frame id."""
    records = {(record.sequence, record.time): record for record in store.frame_records().values()}
    found: dict[str, tuple[FrameRecord, Path]] = {}
    for folder in sorted(source.iterdir()) if source.is_dir() else []:
        named = _FOLDER.fullmatch(folder.name)
        for path in sorted((folder / "SEG").glob("*.tif*")) if named and folder.is_dir() else []:
            numbered = _FILE.fullmatch(path.name)
            if named is None or numbered is None:
                raise LabelError(f"{path} is not named as a label file; expected man_seg012.tif")
            record = records.get((named[1], int(numbered[1])))
            if record is None:
                raise LabelError(f"{path} is of no frame of {store.path}; remove it, or give the store of its frames")
            if record.frame in found:
                raise LabelError(f"{path} and {found[record.frame][1]} are of one frame; remove one of them")
            found[record.frame] = (record, path)
    if not found:
        raise LabelError(f"{source} has no label files; expected {source}/SEQUENCE_{COMPLETE}/SEG/man_seg012.tif")
    return found
