"""A quick look at a data set: what a recipe needs to know before a store is made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.progress import Progress, silent
from hela_store.errors import DatasetError
from hela_store.images.labels import compact
from hela_store.recipe.recipe import DatasetRecipe, Labels, ReaderName

from .ctc import CtcReader, find_sequences, label_sets
from .doubts import doubts_of_images, doubts_of_labels, look_at_label, refuse_labels, spread, time_lapses
from .entries import Entry, list_folder
from .folder import FolderReader
from .listing import list_images
from .ome_zarr import is_ome_zarr
from .pixels import read_image
from .vendors import refuse_vendor

# Width of the outer band in px by data set: Cell Tracking Challenge, "Annotation naming and content", table of E.
FIELD_OF_INTEREST = {
    "DIC-C2DH-HeLa": 50,
    "Fluo-C2DL-Huh7": 50,
    "Fluo-C2DL-MSC": 50,
    "Fluo-N2DH-GOWT1": 50,
    "PhC-C2DH-U373": 50,
    "BF-C2DL-HSC": 25,
    "BF-C2DL-MuSC": 25,
    "Fluo-N2DL-HeLa": 25,
    "PhC-C2DL-PSC": 25,
}
# um, Cell Tracking Challenge, data set descriptions; their TIFF files carry no pixel size.
PIXEL_SIZE_UM = {"DIC-C2DH-HeLa": 0.19, "Fluo-N2DL-HeLa": 0.645}

IMAGES_SAMPLED = 8
LABELS_SAMPLED = 100


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """Contents of a data set.

    Attributes
    ----------
    config : DatasetRecipe
        The ``[dataset]`` table that reads it, with reader, sequences, labels, offset, pixel size and band filled in;
        ``path`` as it was given.
    times : dict of str to tuple of int
        Frame numbers of each sequence.
    frames : int
        How many frames in all.
    shapes : tuple of (int, int)
        Sizes that occur, (rows, columns) px, the most frequent first.
    dtypes : tuple of str
        Pixel types that occur, as stored in the files.
    bits : int
        Bits that the signal above the offset needs, in the frames looked at; 0 for floats.
    label_sets : tuple of str
        What can be given as ``labels``: of ``ST``, ``GT``, ``GT+ST``, ``masks``.
    labelled : int
        Frames that carry labels of the chosen kind.
    pixel_size_from : str
        ``"given"``, ``"metadata"``, ``"metadata, per file"``, ``"data set name"`` or ``""``.
    images_sampled, labels_sampled : int
        How many images and label images were looked at for the numbers below and for the offset.
    cells : int
        Cells in the sampled label images.
    cells_per_frame : (int, float, int) or None
        Least, mean and most cells in a labelled frame.
    diameter : float or None
        Median equivalent diameter, px.
    extents : float64, (cells,)
        Longer side of each cell's box, px, for the overlap of tiles.
    entries : tuple of Entry
        All frames in order, as the reader lists them.
    extent_p999 : float or None
        99.9th percentile of ``extents``, px.
    blank : tuple of str
        Ids of sampled frames that hold one value only.
    lapses : tuple of tuple of int
        Frame numbers of stills that seem to be a time-lapse, series by series.
    warnings : tuple of str
        What is odd about the files, their labels or their metadata, in words.
    """

    config: DatasetRecipe
    times: dict[str, tuple[int, ...]]
    frames: int
    shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]
    bits: int
    label_sets: tuple[str, ...]
    labelled: int
    pixel_size_from: str
    images_sampled: int
    labels_sampled: int
    cells: int
    cells_per_frame: tuple[int, float, int] | None
    diameter: float | None
    extents: npt.NDArray[np.float64] = field(repr=False, compare=False)
    entries: tuple[Entry, ...] = field(repr=False, compare=False)
    extent_p999: float | None
    blank: tuple[str, ...] = ()
    lapses: tuple[tuple[int, ...], ...] = ()
    warnings: tuple[str, ...] = ()


def inspect(
    path: Path,
    *,
    sequences: tuple[str, ...] = (),
    labels: Labels | None = None,
    axis: str = "",
    channel: int | None = None,
    pixel_size_um: float | None = None,
    progress: Progress = silent,
) -> DatasetSummary:
    """Look at a data set: headers of all files, pixels of a handful of frames (seconds, however long it is).

    Parameters
    ----------
    path : Path
        Folder of a Cell Tracking Challenge data set, of images, or one image stack.
    sequences : tuple of str
        Which to take; all where empty.
    labels : str or None
        ``ST``, ``GT``, ``GT+ST``, ``masks``, ``none``; the most complete there is where None.
    axis, channel : as in the recipe
    pixel_size_um : float or None
        Given by the user; else from metadata, else from a known data set's name.
    progress : Progress
        Shown while the headers of many files are read.

    Raises
    ------
    DatasetError
        As :func:`hela_store.datasets.open_dataset`, the layout is none that a reader knows, or the labels are no
        numbers of cells.
    """
    kind = guess_reader(path)
    if kind == "ctc":
        sequences = sequences or tuple(find_sequences(path))
        found = label_sets(path, sequences)
    else:
        found = ("masks",) if list_images(path, labels=labels != "none").has_labels else ()
    name = path.resolve().name
    config = DatasetRecipe(
        reader=kind,
        path=str(path),
        sequences=sequences,
        labels=labels or cast(Labels, found[0] if found else "none"),
        field_of_interest=FIELD_OF_INTEREST.get(name, 0) if kind == "ctc" else 0,
        pixel_size_um=pixel_size_um,
        axis=axis,
        channel=channel,
    )
    reader = CtcReader(config, path) if kind == "ctc" else FolderReader(config, path, progress)
    size, size_from = _pixel_size(reader.entries, pixel_size_um, name)
    images = [(entry.id, read_image(entry.image)) for entry in spread(reader.entries, IMAGES_SAMPLED)]
    config = replace(config, offset=estimate_offset([image for _, image in images]), pixel_size_um=size)
    return _summary(reader, config, found, size_from, images)


def guess_reader(path: Path) -> ReaderName:
    """Return which reader a folder is for: ``ctc`` where it holds sequences, ``folder`` where it holds images.

    Raises
    ------
    DatasetError
        Neither, or there is no such folder.
    """
    if path.is_file() or is_ome_zarr(path):
        return "folder"
    if any(entry.name.lower() == "images" and entry.is_dir() for entry in list_folder(path)):
        return "folder"
    # Asked in this order since a sequence folder itself also holds image files: find_sequences says what to do then.
    if find_sequences(path):
        return "ctc"
    if list_images(path, labels=False).images:
        return "folder"
    for entry in list_folder(path):
        refuse_vendor(entry)
    seen = ", ".join(entry.name for entry in list_folder(path)[:5]) or "nothing"
    raise DatasetError(
        f"{path}: no frames found (it holds {seen}); expected <sequence>/t000.tif (Cell Tracking Challenge), "
        "images/ with masks/, or TIFF or PNG files"
    )


def estimate_offset(images: list[np.ndarray]) -> float:
    """Estimate the black level: the pixel value that means no light.

    - 8-bit images, and float images without negative values: 0. They have been scaled already, their black level says
      nothing.
    - Float images with negative values (phase, z-scores, a background taken off): their darkest level, rounded down to
      a tenth of the digit of their range. 0 would make all that is darker than the background black.
    - Darkest pixels at or above 2**15: 32768. The signal was stored with the sign bit's offset, as in Fluo-N2DL-HeLa.
    - Else the darkest level, rounded down to two digits (97 stays 97, 1043 becomes 1000): camera offsets lie near 100
      to 2000. A level of 4096 or more is the scene's own (bright field), not a camera's: 0.

    "Darkest" is the smallest 0.1st percentile of the frames, so that dead pixels do not count; frames of one value only
    (blank) are left out.

    Parameters
    ----------
    images : list of (row, col)
    """
    seen = [image for image in images if image.size and image.min() != image.max()]
    if any(image.dtype.kind == "f" for image in seen):
        return _below_zero([image for image in seen if image.dtype.kind == "f"])
    if not seen or any(image.dtype != np.uint16 for image in seen):
        return 0.0
    darkest = int(min(np.percentile(image, 0.1) for image in seen))
    if darkest >= 1 << 15:
        return float(1 << 15)
    if darkest >= 1 << 12:
        return 0.0
    unit = 10 ** max(0, len(str(darkest)) - 2)
    return float(darkest // unit * unit)


def _below_zero(images: list[np.ndarray]) -> float:
    limits = [np.percentile(image.astype(np.float64), [0.1, 99.9]) for image in images]
    darkest, brightest = min(low for low, _ in limits), max(high for _, high in limits)
    if darkest >= 0 or brightest <= darkest:
        return min(0.0, float(darkest))
    exponent = math.floor(math.log10(brightest - darkest)) - 1
    level = math.floor(darkest / 10.0**exponent)
    return round(float(level * 10.0**exponent), max(0, -exponent))


def _summary(
    reader: CtcReader | FolderReader,
    config: DatasetRecipe,
    found: tuple[str, ...],
    size_from: str,
    images: list[tuple[str, np.ndarray]],
) -> DatasetSummary:
    entries = reader.entries
    labelled = [entry for entry in entries if entry.labels]
    read = ((entry.id, reader.label(entry)) for entry in spread(labelled, LABELS_SAMPLED))
    looked = [(cells_in(label), look_at_label(frame, label)) for frame, label in read if label is not None]
    sampled = [cells for cells, _ in looked]
    looks = [look for _, look in looked]
    refuse_labels(looks)
    doubts = (*doubts_of_images(images), *doubts_of_labels(looks))
    counts = [len(diameters) for diameters, _ in sampled]
    diameters = np.concatenate([d for d, _ in sampled]) if sampled else np.zeros(0)
    extents = np.concatenate([e for _, e in sampled]) if sampled else np.zeros(0)
    times: dict[str, list[int]] = {}
    for entry in entries:
        times.setdefault(entry.sequence, []).append(entry.time)
    integer = [image for _, image in images if image.dtype.kind == "u"]
    return DatasetSummary(
        config=config,
        times={name: tuple(numbers) for name, numbers in times.items()},
        frames=len(entries),
        shapes=tuple(shape for shape, _ in Counter(entry.image.shape for entry in entries).most_common()),
        dtypes=tuple(str(dtype) for dtype, _ in Counter(entry.image.dtype for entry in entries).most_common()),
        bits=max((max(0, int(image.max()) - int(config.offset)).bit_length() for image in integer), default=0),
        label_sets=found,
        labelled=len(labelled),
        pixel_size_from=size_from,
        images_sampled=len(images),
        labels_sampled=len(sampled),
        cells=len(diameters),
        cells_per_frame=(min(counts), sum(counts) / len(counts), max(counts)) if counts else None,
        diameter=float(np.median(diameters)) if len(diameters) else None,
        extents=extents,
        entries=entries,
        extent_p999=float(np.percentile(extents, 99.9)) if len(extents) else None,
        blank=tuple(frame for frame, image in images if image.min() == image.max()),
        lapses=time_lapses(entries) if config.stills else (),
        warnings=(*reader.notes, *doubts),
    )


def cells_in(label: np.ndarray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return equivalent diameters and longer box sides of all cells in a label image, px, each (cells,)."""
    ids, index = compact(label)
    area = np.bincount(index.ravel(), minlength=ids.size)[1:]
    boxes = ndimage.find_objects(index, max_label=ids.size - 1)
    extents = [max(axis.stop - axis.start for axis in box) for box in boxes if box is not None]
    return 2 * np.sqrt(area[area > 0] / math.pi), np.asarray(extents, dtype=float)


def _pixel_size(entries: Sequence[Entry], given: float | None, name: str) -> tuple[float | None, str]:
    if given is not None:
        return given, "given"
    sizes = {entry.image.pixel_size_um for entry in entries}
    if len(sizes) == 1 and None not in sizes:
        return sizes.pop(), "metadata"
    if len(sizes) > 1:
        # Files that differ keep their own size: the recipe's one number would overrule them all.
        return None, "metadata, per file"
    if name in PIXEL_SIZE_UM:
        return PIXEL_SIZE_UM[name], "data set name"
    return None, ""
