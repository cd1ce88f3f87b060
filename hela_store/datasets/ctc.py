"""Reader for the Cell Tracking Challenge's layout: ``<root>/<seq>/tNNN.tif`` with labels beside the sequences.

Labels are ``<seq>_ST/SEG/man_segNNN.tif`` (the tracker reference, complete), ``<seq>_GT/SEG/man_segNNN.tif`` (partial
gold), or gold over the reference cell by cell (:func:`~hela_store.datasets.gold.gold_over_reference`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hela_store.errors import DatasetError
from hela_store.images.labels import apply_field_of_interest, valid_pixels
from hela_store.recipe.recipe import DatasetRecipe

from .entries import Entry, check_mask_size, list_folder, plane_notes, probe_label
from .frame import Frame
from .gold import gold_over_reference
from .pixels import Plane, probe, read_image, read_label

_FRAME = re.compile(r"t(\d{3,})\.tiff?", re.IGNORECASE)
_LABEL = re.compile(r"man_seg(\d{3,})\.tiff?", re.IGNORECASE)
_SLICE = re.compile(r"man_seg_?(\d+)_(\d+)\.tiff?", re.IGNORECASE)


class CtcReader:
    """A challenge data set; call it for its frames, ``len`` counts them.

    Attributes
    ----------
    entries : tuple of Entry
        All frames in order, from file names and headers alone; :meth:`read` reads one.
    notes : tuple of str
        What the files hold beyond these frames, or hold in an unusual way, in words.
    """

    def __init__(self, config: DatasetRecipe, root: Path) -> None:
        if config.labels == "masks":
            raise DatasetError("labels are 'masks', which is the folder reader's word; expected ST, GT, GT+ST or none")
        self.config = config
        self.root = root
        names = config.sequences or tuple(find_sequences(root))
        if not names:
            raise DatasetError(f"{root}: no frames found; expected sequence folders with files like 01/t000.tif")
        frames = {name: _frame_files(root / name) for name in names}
        _require_labels(root, names, config.labels)
        self.entries = tuple(e for name, files in frames.items() for e in _list_sequence(config, root, name, files))
        planes = [plane for entry in self.entries for plane in (entry.image, *entry.labels.values())]
        self.notes = plane_notes(planes)

    def __len__(self) -> int:
        return len(self.entries)

    def __call__(self) -> Iterator[Frame]:
        """Yield frames one at a time; raises as :meth:`read`."""
        return (self.read(entry) for entry in self.entries)

    def read(self, entry: Entry) -> Frame:
        """Read one frame.

        Raises
        ------
        DatasetError
            A damaged file, NaN, or a label image that is none.
        """
        label, origin, agreed = self._labels(entry)
        partial = origin == "GT"
        valid = agreed & valid_pixels(label, entry.image.shape, self.config.field_of_interest, partial=partial)
        return Frame(
            sequence=entry.sequence,
            name=entry.name,
            time=entry.time,
            image=read_image(entry.image),
            label=label,
            valid=valid,
            label_origin=origin,
            partial=partial,
            pixel_size_um=self.config.pixel_size_um or entry.image.pixel_size_um,
        )

    def label(self, entry: Entry) -> np.ndarray | None:
        """Read the labels of one frame alone, int32 (row, col), None where it has none; raises as :meth:`read`."""
        return self._labels(entry)[0]

    def _labels(self, entry: Entry) -> tuple[np.ndarray | None, str, np.ndarray]:
        """Return labels, where they come from, and where gold and the reference agree enough to say anything."""
        band, agreed = self.config.field_of_interest, np.ones(entry.image.shape, bool)
        planes = {kind: entry.labels[kind] for kind in self.config.labels.split("+") if kind in entry.labels}
        if not planes:
            return None, "", agreed
        if len(planes) == 2:
            label, agreed = gold_over_reference(read_label(planes["GT"]), read_label(planes["ST"]))
        else:
            # With GT+ST asked for, a frame that has one of the two says so: the reference is complete, gold partial.
            label = read_label(next(iter(planes.values())))
        return apply_field_of_interest(label, band), "+".join(planes), agreed


def is_sequence(folder: Path) -> bool:
    """Whether a folder holds frames named ``tNNN.tif``."""
    return any(_FRAME.fullmatch(path.name) for path in list_folder(folder))


def find_sequences(root: Path) -> list[str]:
    """Return the names of folders in ``root`` that hold frames named ``tNNN.tif``, sorted.

    Raises
    ------
    DatasetError
        ``root`` is missing, cannot be read, or is itself a sequence.
    """
    files = list_folder(root)
    found = [path.name for path in files if path.is_dir() and is_sequence(path)]
    if not found and is_sequence(root):
        raise DatasetError(
            f"{root} is itself a sequence; give the folder above it ({root.parent}) and --sequence {root.name}"
        )
    return found


def label_sets(root: Path, sequences: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of ``ST``, ``GT`` and ``GT+ST`` exist for any of the sequences."""
    found = [kind for kind in ("ST", "GT") if any(_label_folder(root, name, kind).is_dir() for name in sequences)]
    return (*found, "GT+ST") if len(found) == 2 else tuple(found)


def _label_folder(root: Path, sequence: str, kind: str) -> Path:
    return root / f"{sequence}_{kind}" / "SEG"


def _require_labels(root: Path, sequences: tuple[str, ...], labels: str) -> None:
    if labels == "none":
        return
    found = label_sets(root, sequences)
    if labels not in found:
        wanted = " and ".join(f"{sequences[0]}_{kind}/SEG" for kind in labels.split("+"))
        have = " or ".join(f"--labels {name}" for name in (*found, "none"))
        raise DatasetError(f"{root}: no {labels} labels, expected {wanted}; use {have}")


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for path in list_folder(folder):
        match = pattern.fullmatch(path.name)
        if match:
            other = numbered.setdefault(int(match[1]), path)
            if other is not path:
                raise DatasetError(f"{path} and {other.name} are both number {int(match[1])}; remove one")
        elif pattern is _LABEL and _SLICE.fullmatch(path.name):
            raise DatasetError(f"{path} labels a slice of a 3-D stack; 3-D data are not supported, use a 2-D data set")
    return numbered


def _frame_files(folder: Path) -> dict[int, Path]:
    frames = _numbered(folder, _FRAME)
    if not frames:
        raise DatasetError(f"{folder}: no frames found; expected files like t000.tif")
    return frames


def _list_sequence(config: DatasetRecipe, root: Path, sequence: str, frames: dict[int, Path]) -> list[Entry]:
    labels = _list_labels(config, root, sequence, frames)
    entries = [
        Entry(
            sequence=sequence,
            name=path.stem,
            time=time,
            image=probe(path, channel=config.channel)[0],
            labels={kind: planes[time] for kind, planes in labels.items() if time in planes},
        )
        for time, path in sorted(frames.items())
    ]
    _check_sizes(entries)
    return entries


def _list_labels(
    config: DatasetRecipe, root: Path, sequence: str, frames: dict[int, Path]
) -> dict[str, dict[int, Plane]]:
    labels: dict[str, dict[int, Plane]] = {}
    for kind in config.labels.split("+"):
        folder = _label_folder(root, sequence, kind)
        if config.labels == "none" or not folder.is_dir():
            continue
        files = _numbered(folder, _LABEL)
        for time in sorted(set(files) - set(frames)):
            raise DatasetError(
                f"{files[time]} is a mask without a frame: {frames[min(frames)].parent} has no number {time}; "
                "add the frame or remove the mask"
            )
        labels[kind] = {time: probe_label(path)[0] for time, path in sorted(files.items())}
    return labels


def _check_sizes(entries: list[Entry]) -> None:
    usual = Counter(entry.image.shape for entry in entries).most_common(1)[0][0]
    for entry in entries:
        rows, cols = entry.image.shape
        if entry.image.shape != usual:
            raise DatasetError(
                f"{entry.image.path}: {rows} x {cols} px (rows x cols), the other frames of sequence "
                f"{entry.sequence} have {usual[0]} x {usual[1]}; use the folder reader for images of several sizes"
            )
        for plane in entry.labels.values():
            check_mask_size(entry.image, plane)
