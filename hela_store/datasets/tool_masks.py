"""Label images that another tool made of the store's frames: which file is which frame's, and reading them.

Evaluation with own masks as prompts, the mending of masks and the fitting of an error model all take masks from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.errors import PromptError

from .entries import list_folder, probe_label
from .frame_files import files_of_frames, mask_stems
from .listing import MASK_ENDING
from .pixels import PNG, TIFF, read_label

JOIN = "join them into one label image a frame (0 background, one number a cell)"
PIECE = 0.25
"""Share of the largest piece's pixels from which another piece is a cell of its own, not a splinter."""
SURELY = 3
"""Pieces of like size from which on a value is surely no cell, whatever other images of the folder look like."""

Shapes = Mapping[str, tuple[int, int]]
"""``(rows, cols)`` px of frames by their ids."""


@dataclass(frozen=True, kw_only=True)
class ToolMasks:
    """Label images of a tool.

    Attributes
    ----------
    folder : Path
    files : dict of str to Path
        The label image of each frame that has one, by the frame's id.
    unused : tuple of Path
        Images in the folder that fit no frame.
    """

    folder: Path
    files: dict[str, Path]
    unused: tuple[Path, ...]

    def read(self, frame: str) -> LabelArray:
        """Return the label image of a frame: int32, (row, col), 0 background.

        Raises
        ------
        DatasetError
            The file is damaged, or holds floats, colours, several planes or values below 0.
        """
        return read_label(probe_label(self.files[frame])[0])


def find_tool_masks(folder: Path, shapes: Shapes) -> ToolMasks:
    """Find the label image of each frame in a folder; nothing but names is read.

    Raises
    ------
    PromptError
        There is no such folder, no file has a frame's name, a file fits several frames or a frame has several files,
        or every cell has a file of its own.
    """
    if not folder.is_dir():
        raise PromptError(f"no folder of prompt masks at {folder}")
    files = files_of_frames(folder, shapes, (*TIFF, *PNG), mask_stems, MASK_ENDING)
    if not files.found:
        _refuse_cell_files(folder, shapes, files.unused)
        found = f"{len(files.unused)} images there, such as {files.unused[0].name}" if files.unused else "it has none"
        raise PromptError(
            f"no label image in {folder} has the name of a frame ({found}); expected TIFF or PNG files such as "
            f"{next(iter(shapes)).rpartition('/')[2]}.tif, also with _cp_masks, _seg or _labels behind the name, or "
            f"mask012.tif for t012{_pickled(folder)}"
        )
    return ToolMasks(folder=folder, files=files.found, unused=files.unused)


def check_tool_masks(masks: ToolMasks, shapes: Shapes) -> int:
    """Read every label image once and refuse what is no label image of its frame; return the largest number of a cell.

    Raises
    ------
    DatasetError
        As :meth:`ToolMasks.read`.
    PromptError
        An image has another size than its frame, images are binary or hold classes, or none holds a cell.
    """
    highest, doubtful, several = 0, None, False
    for frame, path in masks.files.items():
        plane, shape = probe_label(path)[0], shapes[frame]
        if plane.shape != shape:
            raise PromptError(
                f"{path} has {plane.shape[0]} x {plane.shape[1]} px (rows x cols), its frame {frame} has {shape[0]} x "
                f"{shape[1]}; export the masks at the frames' own size"
            )
        label = read_label(plane)
        highest = max(highest, int(label.max(initial=0)))
        pieces = _pieces(label)
        _check_background(path, label)
        if pieces and (plane.dtype.kind == "b" or _surely_none(label, pieces)):
            raise _no_cells(path, pieces)
        if pieces and min(pieces.values()) > 1:
            doubtful = doubtful or (path, pieces)
        elif len(pieces) > 1:
            several = True
    if doubtful is not None and not several:
        raise _no_cells(*doubtful)
    if not highest:
        raise PromptError(
            f"the {len(masks.files)} label images in {masks.folder} hold no cell: all of their pixels are 0"
        )
    return highest


def _check_background(path: Path, label: LabelArray) -> None:
    if not label.all():
        return
    values, counts = np.unique(label, return_counts=True)
    if counts.max() > label.size / 2:
        raise PromptError(
            f"{path} has no background: no pixel is 0, and value {values[counts.argmax()]} fills more than half of the "
            "frame; save background as 0 and one number a cell (ilastik: export Object Identities)"
        )


def _surely_none(label: LabelArray, pieces: dict[int, int]) -> bool:
    """Return whether the values are surely classes: each has many pieces, or there is no background, and half have."""
    several = sum(count > 1 for count in pieces.values())
    return min(pieces.values(), default=0) >= SURELY or (bool(label.all()) and 2 * several >= len(pieces))


def _pieces(label: LabelArray) -> dict[int, int]:
    """Return, by number, in how many pieces of like size each cell lies."""
    values = np.unique(label[label > 0])
    index = np.zeros(label.shape, np.int32)
    index[label > 0] = np.searchsorted(values, label[label > 0]) + 1
    found = {}
    for number, place in enumerate(ndimage.find_objects(index), 1):
        pieces, _ = ndimage.label(index[place] == number, np.ones((3, 3), int))
        sizes = np.bincount(pieces.ravel())[1:]
        found[int(values[number - 1])] = int((sizes >= PIECE * sizes.max()).sum())
    return found


def _no_cells(path: Path, pieces: dict[int, int]) -> PromptError:
    way = "give every cell a number of its own (skimage.measure.label numbers the pieces that do not touch"
    if len(pieces) == 1:
        return PromptError(
            f"{path} is a binary mask: all of its cells have one value, so nothing says where one ends; {way})"
        )
    few = ", ".join(map(str, list(pieces)[:5]))
    return PromptError(
        f"{path} has classes, not cells: each of its {len(pieces)} values ({few}) stands for all that is alike; {way}; "
        "ilastik: export Object Identities)"
    )


def _refuse_cell_files(folder: Path, shapes: Shapes, unused: tuple[Path, ...]) -> None:
    """Say that every cell has a file of its own where the names say so."""
    names = {frame: frame.rpartition("/")[::2] for frame in shapes}
    for frame, (sequence, name) in names.items():
        for place in (folder / name, folder / sequence / name):
            if place.is_dir() and sum(path.suffix.lower() in (*TIFF, *PNG) for path in list_folder(place)) > 1:
                raise PromptError(f"{place} holds several images of frame {frame}, one a cell? {JOIN}")
        mine = [path for path in unused if path.stem.startswith((f"{name}_", f"{name}-", f"{name}."))]
        if len(mine) > 1:
            raise PromptError(f"{mine[0]} and {len(mine) - 1} more images are of frame {frame}, one a cell? {JOIN}")


def _pickled(folder: Path) -> str:
    if not any(path.name.endswith("_seg.npy") for path in list_folder(folder)):
        return ""
    return "; _seg.npy files can hold code and are not read (Cellpose: File > Save masks as PNG/tif)"
