"""TIFF files as they are found in microscopy: all images they hold, and whether all their bytes are there."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from hela_store.errors import DatasetError

from .pixel_size import tiff_pixel_size

# What tifffile only logs before it goes on with the pages it could find; all of these mean bytes are missing.
_DAMAGE = ("invalid page offset", "invalid offset to first page", "invalid value offset", "or corrupted file")
_SMALL = 4096
"""Bytes that a file may have more than its pages and their tags take."""
_MOST_OPEN = 4
"""Stacks that stay open between two reads: an image and its labels are read in turn."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Description of a file's array in its header.

    Attributes
    ----------
    shape : tuple of int
    axes : str
        One letter per axis, ``Y`` and ``X`` among them.
    dtype : numpy.dtype
    pixel_size_um : float or None
    white : int or None
        The value that means white where 0 does not mean black: such images are stored as negatives.
    files : tuple of str
        Names of the files that hold the pixels, this one and others, where it is one file of several.
    notes : tuple of str
        What was found in the file and is not an error, in words.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    pixel_size_um: float | None = None
    white: int | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
def _whole(refuse: bool = True) -> Iterator[None]:
    """Take for an error what tifffile only logs where a file is cut off, before it reads on with fewer pages."""
    log, collector = logging.getLogger("tifffile"), _Collector()
    propagate = log.propagate
    log.addHandler(collector)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(collector)
        log.propagate = propagate
    damage = [text for text in collector.messages if any(word in text for word in _DAMAGE)]
    if damage and refuse:
        raise ValueError(damage[0])


class _Stack:
    """A TIFF file held open; opening it parses all its pages, reading one of them after that costs one page."""

    def __init__(self, path: Path) -> None:
        self._files = contextlib.ExitStack()
        self._array: Any = None
        try:
            with _whole():
                self._tiff, readable = _open(path, self._files)
                self._series, notes = _images(path, self._tiff.series)
                for series in self._series:
                    _check_extent(path, series)
            with _whole(refuse=False):  # the pixels are all there: headers of later pages may be cut off
                more = (*_odd_sizes(self._tiff), *_shared(self._tiff))
            with _whole():
                self.header = self._header(path, (*readable, *notes, *more))
        except BaseException:
            self.close()
            raise

    def _header(self, path: Path, notes: tuple[str, ...]) -> Header:
        first, many = self._series[0], len(self._series) > 1
        if "Y" not in first.axes or "X" not in first.axes:
            raise DatasetError(f"{path}: no image axes found (axes {first.axes}, shape {first.shape})")
        page, size = first.keyframe, tiff_pixel_size(self._tiff)
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        if inverted:
            notes += ("0 means white in it: it is read as its negative, as viewers show it",)
        return Header(
            shape=(len(self._series), *first.shape) if many else first.shape,
            axes="I" + first.axes if many else first.axes,
            dtype=np.dtype(first.dtype),
            pixel_size_um=size.um,
            white=(1 << int(page.bitspersample)) - 1 if inverted else None,
            files=_files(path, first),
            notes=(*notes, *size.notes),
        )

    def read(self, select: tuple[int | slice, ...]) -> np.ndarray:
        """Return ``array[select]``; of a long stack only the pages that takes."""
        with _whole():
            if len(self._series) > 1:
                return np.asarray(self._series[int(select[0])].asarray())[select[1:]]  # type: ignore[arg-type]
            if all(isinstance(index, slice) for index in select):
                return np.asarray(self._series[0].asarray())
            if self._array is None:
                # tifffile's Zarr view of a file reads single pages, also of contiguous ImageJ stacks.
                import zarr

                pages = self._series[0].aszarr(level=0)
                self._files.callback(pages.close)
                self._array = zarr.open_array(pages, mode="r")
            return np.asarray(self._array[select])

    def close(self) -> None:
        self._files.close()


def _open(path: Path, files: contextlib.ExitStack) -> tuple[tifffile.TiffFile, tuple[str, ...]]:
    """Open a file whose pages can be listed; where its OME-XML is at fault, without that."""
    tiff = files.enter_context(tifffile.TiffFile(path))
    try:
        if not tiff.series:
            raise ValueError("it holds no image")
    except Exception as error:
        if not tiff.is_ome:
            raise
        plain = files.enter_context(tifffile.TiffFile(path, is_ome=False))
        if not plain.series:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return plain, (f"the OME-XML cannot be read ({reason}): its pages are taken as a plain stack",)
    return tiff, ()


def _images(
    path: Path, every: Sequence[tifffile.TiffPageSeries]
) -> tuple[list[tifffile.TiffPageSeries], tuple[str, ...]]:
    """Return the series that make up the file's array, and a word on those that do not.

    Pages that were appended one by one are a series each: they are one stack. Previews are left out.
    """
    first, others = every[0], [s for s in every[1:] if not s.keyframe.is_reduced]
    if not others:
        return [first], ()
    alike = {(s.axes, s.shape, s.dtype) for s in (first, *others)}
    if len(alike) == 1 and len(others) == len(every) - 1 and first.axes in ("YX", "YXS", "SYX"):
        return list(every), ()
    sizes = [s.get_shape(squeeze=True) for s in (first, *others)]
    pixels = [s.keyframe.imagelength * s.keyframe.imagewidth for s in (first, *others)]
    if max(pixels[1:]) >= pixels[0]:
        found = ", ".join(f"axes {s.axes}, shape {size}" for s, size in zip((first, *others[:3]), sizes, strict=False))
        raise DatasetError(
            f"{path}: holds {len(sizes)} separate images ({found}{', ...' if len(sizes) > 4 else ''}), expected one "
            "image or one stack; export each into a file of its own (Fiji: open with Bio-Formats, then Save As Tiff)"
        )
    note = f"it also holds {len(others)} smaller image{'s' if len(others) > 1 else ''} (shape {sizes[1]}), not read"
    return [first], (note,)


def _check_extent(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Raise where pixels that the header promises are not there: in this file, or in another it belongs with."""
    if series.dataoffset is not None:
        ends = [(series.parent, series.dataoffset + series.nbytes)]
    else:
        ends = [
            (page.parent, offset + count)
            for page in series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
        ]
        missing = sum(page is None for page in series.pages)
        if missing:
            raise DatasetError(
                f"{path}: {missing} of the {len(series.pages)} planes its OME-XML lists are not there; put the files "
                "they are in beside it, or export what there is anew (Fiji: open with Bio-Formats, then Save As Tiff)"
            )
        if any(not (page.dataoffsets and sum(page.databytecounts)) for page in series.pages if page is not None):
            raise ValueError("a page without pixels")
    size = {id(tiff): tiff.filehandle.size for tiff, _ in ends if tiff is not None}
    for tiff, end in ends:
        if end > size[id(tiff)]:
            raise ValueError(f"{end} bytes expected, the file has {size[id(tiff)]}")


def _odd_sizes(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    """Say where a file has bytes for more than its header tells of: pages that were lost, pixels of another type."""
    first, used, planes = tiff.pages.first, 0, 0
    for level in (level for series in tiff.series for level in series.levels):
        if level.is_multifile or tiff.is_micromanager:  # several files, or tables that no tag tells of
            return ()
        if level.dataoffset is not None:
            used += level.nbytes
            planes += max(1, level.nbytes // max(1, level.keyframe.nbytes))
        else:
            used += sum(sum(page.databytecounts) for page in level.pages if page is not None)
            planes += len(level)
    notes = []
    headers = planes * (64 + sum(12 + tag.valuebytecount for tag in first.tags))
    rest, each = tiff.filehandle.size - used - headers, max(1, used // max(1, planes))
    if rest >= max(0.75 * each, _SMALL):
        more = round(rest / each)
        notes.append(f"{rest} of its bytes belong to none of its {planes} planes, room for {more} more: not read")
    row = -(-first.imagewidth * first.samplesperpixel * int(first.bitspersample) // 8)
    own, whole = sum(first.databytecounts), row * first.imagelength * first.imagedepth
    if first.compression == 1 and not first.is_tiled and own not in (whole, whole * planes):
        notes.append(f"its header tells of {own} bytes a plane, where size and type of the pixels make {whole}")
    return tuple(notes)


def _shared(tiff: tifffile.TiffFile) -> tuple[str, ...]:
    """Say where planes share bytes with each other or with the header: some of them are read from a wrong place."""
    pieces = {(0, 8)}
    for series in tiff.series:
        if series.is_multifile:
            return ()
        header = series.keyframe
        pieces.add((header.offset, header.offset + 2 + 12 * len(header.tags)))
        outside = (tag for tag in header.tags if tag.valuebytecount > 8)
        pieces |= {(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in outside}
        if series.dataoffset is not None:
            pieces.add((series.dataoffset, series.dataoffset + series.nbytes))
            continue
        for page in series.pages:
            if page is not None:
                spans = zip(page.dataoffsets, page.databytecounts, strict=False)
                pieces |= {(start, start + count) for start, count in spans if count}
    twice = sum(start < end for (_, end), (start, _) in itertools.pairwise(sorted(pieces)))
    return (f"{twice} pieces lie over other planes or over headers: their pixels are wrong",) if twice else ()


def _files(path: Path, series: tifffile.TiffPageSeries) -> tuple[str, ...]:
    if not series.is_multifile:
        return ()
    handles = [page.parent.filehandle for page in series.pages if page is not None]
    for handle in handles:
        if Path(handle.dirname).resolve() != path.parent.resolve():
            raise DatasetError(
                f"{path}: its OME-XML names {handle.name} in another folder ({handle.dirname}); put the files of one "
                "image into one folder"
            )
    return tuple(dict.fromkeys(handle.name for handle in handles))


_kept: OrderedDict[tuple[Path, int, int, int, int], _Stack] = OrderedDict()
_lock = threading.RLock()


def _stack(path: Path) -> _Stack:
    """Return the open file, from before if it did not change since; a forked process opens its own."""
    status = path.stat()
    key = (path, os.getpid(), status.st_ino, status.st_mtime_ns, status.st_size)
    if key in _kept:
        _kept.move_to_end(key)
    else:
        _kept[key] = _Stack(path)
        while len(_kept) > _MOST_OPEN:
            _kept.popitem(last=False)[1].close()
    return _kept[key]


@atexit.register
def _close_all() -> None:
    while _kept:
        _kept.popitem()[1].close()


def tiff_header(path: Path) -> Header:
    """Return what the header tells; raises ValueError and whatever tifffile raises where the file is damaged."""
    with _lock:
        return _stack(path).header


def read_tiff(path: Path, select: tuple[int | slice, ...]) -> np.ndarray:
    """Return ``array[select]`` of the array that :func:`tiff_header` describes, reading only the pages that takes."""
    with _lock:
        return _stack(path).read(select)
