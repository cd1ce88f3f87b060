"""Describe a frame before it is read, with the checks that both readers share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hela_store.errors import DatasetError

from .pixels import Plane, probe, read_header


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One frame's files: its image plane and its label planes by kind (``ST``, ``GT``, ``masks``)."""

    sequence: str
    name: str
    time: int
    image: Plane
    labels: dict[str, Plane]

    @property
    def id(self) -> str:
        """``"<sequence>/<name>"``, as :attr:`hela_store.datasets.frame.Frame.id`."""
        return f"{self.sequence}/{self.name}"


def list_folder(path: Path) -> list[Path]:
    """Return a folder's content, sorted by name; hidden files are left out.

    Raises
    ------
    DatasetError
        It is missing, no folder, or cannot be read.
    """
    try:
        # names are compared, which is quicker than comparing paths
        return [path / name for name in sorted(os.listdir(path)) if not name.startswith(".")]
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such folder; check --dataset and --sequence") from None
    except NotADirectoryError:
        raise DatasetError(f"{path} is a file, expected a folder") from None
    except PermissionError:
        raise DatasetError(f"{path}: no permission to read it; change its rights or copy it") from None


def probe_label(path: Path, axis: str = "") -> list[Plane]:
    """Return the planes of a label file from its header alone.

    With ``axis`` any single long axis counts the frames: label stacks are seldom saved with the axes of their images.

    Raises
    ------
    DatasetError
        As :func:`~hela_store.datasets.pixels.probe`, or it holds floats.
    """
    header = read_header(path)
    colour = "S" in header.axes and header.shape[header.axes.index("S")] > 1
    if colour and not (axis and header.axes[0] == "S"):
        raise DatasetError(
            f"{path}: a colour image ({header.describe()}) where a label image is meant; save one whole number a cell"
        )
    long = [name for name, n in zip(header.axes, header.shape, strict=True) if name not in "YXS" and n > 1]
    planes = probe(path, long[0] if axis and len(long) == 1 else axis, header=header)
    if header.dtype.kind not in "uib":
        raise DatasetError(
            f"{path}: a label image of {header.dtype}, expected whole numbers (0 background, one number a cell); "
            "save it as uint16"
        )
    return planes


def check_mask_size(image: Plane, mask: Plane) -> None:
    """Raise DatasetError where mask and frame differ in size."""
    if mask.shape != image.shape:
        raise DatasetError(
            f"{mask.path}: mask of {mask.shape[0]} x {mask.shape[1]} px (rows x cols), its frame {image.path.name} has "
            f"{image.shape[0]} x {image.shape[1]}; export both at the same size"
        )


def plane_notes(planes: Iterable[Plane]) -> tuple[str, ...]:
    """Return what is to be said of the files of some planes, each thing once, with the files it is said of."""
    files: dict[str, dict[str, None]] = {}
    for plane in planes:
        for note in plane.notes:
            files.setdefault(note, {})[plane.path.name] = None
    return tuple(
        f"{next(iter(names))}{f' and {len(names) - 1} more files' if len(names) > 1 else ''}: {note}"
        for note, names in files.items()
    )
