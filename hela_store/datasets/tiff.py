"""TIFF files as they are found in microscopy: their header, their pixel size, and whether all their bytes are there."""

from __future__ import annotations

import contextlib
import logging
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hela_store.errors import DatasetError

# What tifffile only logs before it goes on with the pages it could find; all of these mean bytes are missing.
_DAMAGE = ("invalid page offset", "invalid offset to first page", "invalid value offset", "or corrupted file")

# Lengths in micrometres by the words OME-XML and ImageJ use (ImageJ escapes the micro sign).
_MICROMETRES = {
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file's array as its header tells: shape, one letter per axis (``Y``, ``X`` among them), dtype, pixel size."""

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    pixel_size_um: float | None = None

    def describe(self) -> str:
        """Return e.g. ``"axes TYX, shape (5, 64, 64)"``."""
        return f"axes {self.axes}, shape {self.shape}"


@contextlib.contextmanager
def explain(path: Path) -> Iterator[None]:
    """Turn whatever a decoder or the file system raises into one DatasetError that names the file."""
    try:
        yield
    except DatasetError:
        raise
    except PermissionError:
        raise DatasetError(f"{path}: no permission to read it; change its rights (chmod u+r) or copy it") from None
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except MemoryError:
        raise DatasetError(f"{path}: too large for this machine's memory; split the stack into smaller files") from None
    except Exception as error:  # decoders raise their own classes, IndexError, struct.error, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{path}: truncated or damaged ({reason}); copy or export the file again") from error


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF whose bytes are all there.

    tifffile reads on where a file is cut off, with fewer pages and a logged warning: what it logs is taken for an error
    here, and every strip is checked to lie within the file.
    """
    log, collector = logging.getLogger("tifffile"), _Collector()
    propagate = log.propagate
    log.addHandler(collector)
    log.propagate = False
    try:
        with tifffile.TiffFile(path) as tiff:
            if tiff.series:
                _check_extent(tiff)
            damage = [text for text in collector.messages if any(word in text for word in _DAMAGE)]
            if damage or not tiff.series:
                raise ValueError(damage[0] if damage else "it holds no image")
            yield tiff
    finally:
        log.removeHandler(collector)
        log.propagate = propagate


def _check_extent(tiff: tifffile.TiffFile) -> None:
    series, size = tiff.series[0], tiff.filehandle.size
    end = 0
    if series.dataoffset is not None:
        end = series.dataoffset + series.nbytes
    for page in series.pages:
        if page is not None:
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
            end = max([end, *ends])
    if end > size:
        raise ValueError(f"{end} bytes expected, the file has {size}")


def tiff_header(path: Path) -> Header:
    """Return shape, axes, dtype and pixel size; raises ValueError and whatever tifffile raises where it is damaged."""
    with open_tiff(path) as tiff:
        series = tiff.series[0]
        if "Y" not in series.axes or "X" not in series.axes:
            raise DatasetError(f"{path}: no image axes found (axes {series.axes}, shape {series.shape})")
        dtype = np.dtype(series.dtype)
        return Header(shape=series.shape, axes=series.axes, dtype=dtype, pixel_size_um=_pixel_size(tiff))


def read_tiff(path: Path, select: tuple[int | slice, ...]) -> np.ndarray:
    """Return ``array[select]`` of a TIFF's first series, reading only the pages that takes."""
    with open_tiff(path) as tiff:
        series = tiff.series[0]
        if all(isinstance(index, slice) for index in select):
            return np.asarray(series.asarray())
        # tifffile's Zarr view of a file reads single pages, also of contiguous ImageJ stacks.
        import zarr

        with series.aszarr(level=0) as files:
            return np.asarray(zarr.open_array(files, mode="r")[select])


def _pixel_size(tiff: tifffile.TiffFile) -> float | None:
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_pixel_size(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        scale = _MICROMETRES.get(str(tiff.imagej_metadata.get("unit", "")).strip().lower())
        tags = tiff.pages.first.tags
        ratios = [tags[name].value for name in ("XResolution", "YResolution") if name in tags]
        if scale and len(ratios) == 2 and all(number for ratio in ratios for number in ratio):
            return scale * math.sqrt(math.prod(down / up for up, down in ratios))
    return None


def _ome_pixel_size(xml: str) -> float | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Pixels":
            sizes = []
            for side in ("X", "Y"):
                unit = element.get(f"PhysicalSize{side}Unit", "\u00b5m").strip().lower()
                value = element.get(f"PhysicalSize{side}")
                if value is None or unit not in _MICROMETRES:
                    return None
                sizes.append(float(value) * _MICROMETRES[unit])
            # One number has to do: the edge of the square of the same area, so that areas in um2 stay right.
            return math.sqrt(sizes[0] * sizes[1]) or None
    return None
