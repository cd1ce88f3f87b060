"""Reading planes: one grey 2-D image or label image out of a file, with every way it can go wrong named.

A file is *probed* first (its header alone, milliseconds), which tells the planes it holds, then single planes are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from hela_store.errors import DatasetError

from .ome_zarr import is_ome_zarr, read_zarr, zarr_header
from .tiff import Header, explain, read_tiff, tiff_header
from .tiff_peek import peek_tiff
from .vendors import refuse_vendor

TIFF = (".tif", ".tiff", ".lsm")
PNG = (".png",)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Describe where one 2-D image lies.

    Attributes
    ----------
    path : Path
    select : tuple of (int or slice)
        Index into the file's array that leaves (row, col); empty where the file holds just one plane.
    shape : (int, int)
        Rows and columns.
    dtype : numpy.dtype
        As in the file.
    pixel_size_um : float or None
        From OME, ImageJ or LSM metadata.
    white : int or None
        The value that means white where 0 does not mean black (``Header.white``).
    files, notes : tuple of str
        As in the header: the files it lies in where they are several, and what is to be said of them.
    """

    path: Path
    select: tuple[int | slice, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    pixel_size_um: float | None = None
    white: int | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def probe(path: Path, axis: str = "", channel: int | None = None, *, header: Header | None = None) -> list[Plane]:
    """Return the planes of a file from its header alone.

    Parameters
    ----------
    path : Path
        TIFF or PNG.
    axis : str
        Letter of the axis whose positions are frames (``"t"``); empty where a file is one frame.
    channel : int or None
        Which channel (from 0) of a file that has several.
    header : Header
        What :func:`read_header` said of this file, where it was asked before.

    Returns
    -------
    list of Plane
        One, or as many as ``axis`` is long.

    Raises
    ------
    DatasetError
        The file is damaged or unreadable, or holds more axes than were accounted for.
    """
    header = header or read_header(path)
    if axis and channel is None:
        header = _samples_as_frames(header)
    frame_axis = _frame_axis(path, header, axis)
    select: list[int | slice] = []
    for position, (letter, length) in enumerate(zip(header.axes, header.shape, strict=True)):
        if letter in "YX":
            select.append(slice(None))
        elif position == frame_axis:
            select.append(0)
        elif letter in "CS":
            select.append(_pick_channel(path, header, length, channel))
        elif length == 1:
            select.append(0)
        else:
            raise DatasetError(_too_many_axes(path, header, letter, axis))
    if not set("CS") & set(header.axes) and channel:
        raise DatasetError(f"{path}: there is one channel only ({header.describe()}), no channel {channel}")
    rows, cols = (header.shape[header.axes.index(letter)] for letter in "YX")
    if not rows or not cols:
        raise DatasetError(f"{path}: an image without pixels ({header.describe()}); copy or export the file again")
    plane = Plane(
        path=path,
        select=tuple(select),
        shape=(rows, cols),
        dtype=header.dtype,
        pixel_size_um=header.pixel_size_um,
        white=header.white,
        files=header.files,
        notes=header.notes,
    )
    if frame_axis is None:
        return [plane]
    before, after = plane.select[:frame_axis], plane.select[frame_axis + 1 :]
    return [replace(plane, select=(*before, index, *after)) for index in range(header.shape[frame_axis])]


def _samples_as_frames(header: Header) -> Header:
    """Take the planes of an image stored as separate colours for pages where frames are asked for and nothing else is.

    Stacks of three or four pages are often saved so: a writer that is told nothing guesses colour from their shape.
    """
    long = [
        letter for letter, length in zip(header.axes, header.shape, strict=True) if letter not in "YX" and length > 1
    ]
    position = header.axes.find("S")
    if long != ["S"] or position > header.axes.index("Y"):
        return header
    note = f"its {header.shape[position]} planes are tagged as colours of one image and are read as frames"
    return replace(header, axes=header.axes.replace("S", "I"), notes=(*header.notes, note))


def _frame_axis(path: Path, header: Header, axis: str) -> int | None:
    if not axis:
        return None
    letter = axis.strip().upper()
    if len(letter) != 1 or not letter.isalpha() or letter in "YX":
        raise DatasetError(f"axis is {axis!r}, expected one letter that names the frames' axis, such as t or z")
    if letter in header.axes:
        return header.axes.index(letter)
    # Plain multi-page files do not name the axis of their pages: tifffile calls it I or Q.
    unnamed = [position for position, name in enumerate(header.axes) if name in "IQ"]
    if len(unnamed) == 1:
        return unnamed[0]
    long = [name for name, length in zip(header.axes, header.shape, strict=True) if name not in "YXS" and length > 1]
    if not long:
        return None
    raise DatasetError(
        f"{path}: no axis {axis!r} ({header.describe()}); if {long[0]} counts the frames say --axis {long[0].lower()}"
    )


def _pick_channel(path: Path, header: Header, length: int, channel: int | None) -> int:
    if length == 1 and channel is None:
        return 0
    if channel is None:
        pages = ", or with --axis t that they are frames" if header.axes[0] == "S" else ""
        raise DatasetError(
            f"{path}: {length} channels ({header.describe()}) where one grey image is meant; say which with "
            f"--channel 0 to {length - 1}{pages}, or convert the files to grey"
        )
    if not 0 <= channel < length:
        raise DatasetError(f"{path}: channel {channel} asked for, the file has 0 to {length - 1} ({header.describe()})")
    return channel


def _too_many_axes(path: Path, header: Header, letter: str, axis: str) -> str:
    found = f"{path}: a stack ({header.describe()}) where one grey 2-D image is meant"
    if axis:
        return f"{found}: axis {letter} is left over; 3-D data are not supported, project or slice it first"
    word = "t" if letter in "IQT" else letter.lower()
    return (
        f"{found}; if its planes are frames use the folder reader with --axis {word} (one file a sequence); "
        "3-D data are not supported"
    )


def read_header(path: Path) -> Header:
    """Return shape, axes, dtype and pixel size of a TIFF or PNG file without reading its pixels.

    Raises
    ------
    DatasetError
        The file is damaged, unreadable or of another kind.
    """
    with explain(path):
        if path.suffix.lower() in TIFF:
            return peek_tiff(path) or tiff_header(path)
        if path.suffix.lower() in PNG:
            return _png_header(path)
        if is_ome_zarr(path):
            return zarr_header(path)
    refuse_vendor(path)
    raise DatasetError(f"{path}: expected a TIFF or PNG file (.tif, .tiff, .png) or an OME-Zarr folder")


def _png_header(path: Path) -> Header:
    # PIL's mode says nothing about 16-bit colour, so the header chunk itself is read (PNG specification, 11.2.2).
    with path.open("rb", buffering=0) as file:
        head = file.read(26)
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n":
        raise DatasetError(f"{path}: not a PNG file, or cut off in its header; copy it again")
    cols, rows, depth, kind = struct.unpack(">IIBB", head[16:26])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    if samples == 1:
        return Header(shape=(rows, cols), axes="YX", dtype=dtype)
    return Header(shape=(rows, cols, samples), axes="YXS", dtype=dtype)


def _decode(plane: Plane) -> np.ndarray:
    with explain(plane.path):
        kind = plane.path.suffix.lower()
        read = _read_png if kind in PNG else read_tiff if kind in TIFF else read_zarr
        array = read(plane.path, plane.select)
    if array.shape != plane.shape:
        raise DatasetError(f"{plane.path}: shape {array.shape} read, {plane.shape} expected; did the file change?")
    return array


def _read_png(path: Path, select: tuple[int | slice, ...]) -> np.ndarray:
    # PIL keeps the indices of a colour table, which is how some tools save labels; imagecodecs keeps 16-bit colour.
    with Image.open(path) as image:
        if image.mode in ("P", "1"):
            return np.asarray(image)
    return np.asarray(imagecodecs.png_decode(path.read_bytes()))[select]


def _has_palette(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode == "P"


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type :func:`read_image` gives pixels of ``dtype``: uint8, uint16 or float32."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.uint8 if dtype.kind == "b" or dtype == np.uint8 else np.uint16)


def read_image(plane: Plane) -> np.ndarray:
    """Read a grey image: uint8, uint16 or float32, (row, col).

    Other integers become uint16 where they fit, other floats float32.

    Raises
    ------
    DatasetError
        Damaged file, NaN or infinite values, or integers outside 0..65535.
    """
    array = _decode(plane)
    if plane.path.suffix.lower() in PNG and _has_palette(plane.path):
        raise DatasetError(f"{plane.path}: a PNG with a colour table where a grey image is meant; save it as grey")
    if plane.white is not None:
        array = _positive(array, plane.white)
    if array.dtype.kind == "f":
        image = array.astype(np.float32)
        bad = int(image.size - np.isfinite(image).sum())
        if bad:
            raise DatasetError(
                f"{plane.path}{_where(plane)}: {bad} pixels are NaN or infinite; replace them and export the file again"
            )
        return image
    if array.dtype.kind not in "uib":
        raise DatasetError(f"{plane.path}: pixels of type {array.dtype}, expected uint8, uint16 or float32")
    kind = stored_dtype(array.dtype)
    if array.dtype.kind == "i" or array.dtype.itemsize > kind.itemsize:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise DatasetError(
                f"{plane.path}: {array.dtype} values {low}..{high}, expected 0..65535; save it as uint16 or float32"
            )
    return np.ascontiguousarray(array, dtype=kind)


def _positive(array: np.ndarray, white: int) -> np.ndarray:
    """Turn an image whose 0 means white into one whose 0 means black, as every viewer shows it."""
    if array.dtype.kind == "u":
        return array.dtype.type(white) - array
    return ~array if array.dtype.kind == "b" else -array


def read_label(plane: Plane) -> np.ndarray:
    """Read a label image: int32, (row, col), 0 background.

    Raises
    ------
    DatasetError
        Damaged file, floats, or values below 0 or above 2**31 - 1.
    """
    if plane.dtype.kind not in "uib":
        raise DatasetError(
            f"{plane.path}: a label image of {plane.dtype}, expected whole numbers (0 background, one number a cell); "
            "save it as uint16"
        )
    array = _decode(plane)
    if array.size and array.dtype.kind in "ui":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > np.iinfo(np.int32).max:
            raise DatasetError(
                f"{plane.path}{_where(plane)}: labels {low}..{high}, expected 0 (background) to {2**31 - 1}; "
                "renumber them"
            )
    return np.ascontiguousarray(array, dtype=np.int32)


def _where(plane: Plane) -> str:
    numbers = [str(index) for index in plane.select if isinstance(index, int)]
    return f" (plane {','.join(numbers)})" if numbers else ""
