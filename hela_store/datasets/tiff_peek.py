"""Headers of plain TIFF files, read without the TIFF library.

A folder may hold a hundred thousand small images, and opening one with tifffile takes half a millisecond of processor
time. Most such files are alike: one grey image, nothing else. Their header is read here (TIFF revision 6.0, sections 2
to 4). A file that is in any way different is left to the library, which reads it, says what is odd or refuses it.
"""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .tiff import Header

_HEAD = 4096
"""Bytes that are read at once: the header is in them if it comes before the pixels."""
_MOST_TAGS = 40
_SIZES = {2: 1, 3: 2, 4: 4, 5: 8}
"""Bytes of a value by its type: ASCII, SHORT, LONG, RATIONAL."""
_DTYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (8, 1): np.dtype(np.uint8),
    (16, 1): np.dtype(np.uint16),
    (32, 3): np.dtype(np.float32),
}
"""Type of pixels by bits (tag 258) and kind (tag 339: 1 whole numbers from 0, 3 floats)."""
_PLAIN = {
    254: (0,),  # no preview, no page of many
    259: (1, 5, 8, 32946),  # not compressed, LZW, deflate
    262: (1,),  # 0 is black
    266: (1,),  # highest bit first
    274: (1,),  # first row at the top
    277: (1,),  # one value a pixel
    284: (1,),
    317: (1, 2),  # no predictor, or differences of neighbours
}
"""Values that a plain image may have, by tag."""
_NUMBERS = {*_PLAIN, 256, 257, 258, 278, 339}
_STRIPS = {273, 279}
_IGNORED = {282, 283, 286, 287, 296, 297}
"""Resolution, position and page number: of no meaning without ImageJ's or OME's words in tag 270."""


class _OddError(Exception):
    """Raised where a file is not plain."""


def peek_tiff(path: Path) -> Header | None:
    """Return the header of a file that holds one plain grey image and nothing else; None of any other file.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    with path.open("rb", buffering=0) as file:
        try:
            return _Plain(file.fileno()).header()
        except (_OddError, struct.error):
            return None


class _Plain:
    """A file that is open; every method raises _OddError or struct.error if it is not plain."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._size = os.fstat(number).st_size
        self._head = os.read(number, _HEAD)
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(self._head[:4])
        if order is None:
            raise _OddError
        self._order = order
        self._pieces = [(0, 8)]
        """Where something lies: (first byte, byte after the last)."""

    def header(self) -> Header:
        """Return the header, after everything that it says was compared with the file's length."""
        tags = self._tags()
        rows, cols, bits, strips = tags[257], tags[256], tags[258], tags[273]
        dtype = _DTYPES.get((bits, tags.get(339, 1)))
        # the library takes a side of length 1 for none
        if dtype is None or rows < 2 or cols < 2 or not tags[278] or len(strips) != -(-rows // tags[278]):
            raise _OddError
        used = sum(tags[279])
        if len(tags[279]) != len(strips) or (tags.get(259, 1) == 1 and used != rows * cols * bits // 8):
            raise _OddError
        if tags.get(270) not in (None, f'{{"shape": [{rows}, {cols}]}}'.encode()):
            raise _OddError
        for start, length in zip(strips, tags[279], strict=True):
            self._claim(start, length)
        self._pieces.sort()
        apart = all(end <= start for (_, end), (start, _) in itertools.pairwise(self._pieces))
        # pixels of lost pages would be left over
        if not apart or self._pieces[-1][1] > self._size or self._size - used >= _HEAD:
            raise _OddError
        return Header(shape=(rows, cols), axes="YX", dtype=dtype)

    def _tags(self) -> dict[int, Any]:
        (start,) = struct.unpack(self._order + "I", self._head[4:8])
        (count,) = struct.unpack(self._order + "H", self._read(start, 2))
        if not 0 < count <= _MOST_TAGS:
            raise _OddError
        table = self._read(start, 2 + 12 * count + 4)
        self._claim(start, len(table))
        if table[-4:] != bytes(4):  # another page
            raise _OddError
        tags: dict[int, Any] = {}
        last = 0
        for code, kind, number, value in struct.iter_unpack(self._order + "HHI4s", table[2:-4]):
            if code <= last:
                raise _OddError
            last = code
            tags[code] = self._value(code, kind, number, value)
        if not {256, 257, 258, 262, 273, 278, 279} <= tags.keys():
            raise _OddError
        return tags

    def _value(self, code: int, kind: int, number: int, value: bytes) -> Any:
        if code in _NUMBERS and kind in (3, 4) and number == 1:
            (found,) = struct.unpack(self._order + ("H" if kind == 3 else "I"), value[: _SIZES[kind]])
            if found in _PLAIN.get(code, (found,)):
                return found
            raise _OddError
        if kind not in _SIZES or not number:
            raise _OddError
        length = number * _SIZES[kind]
        (start,) = struct.unpack(self._order + "I", value)
        if length > 4:
            self._claim(start, length)
        if code in _STRIPS and kind in (3, 4):
            data = value[:length] if length <= 4 else self._read(start, length)
            return struct.unpack(f"{self._order}{number}{'H' if kind == 3 else 'I'}", data)
        if code in _IGNORED:
            return None
        if code in (270, 305) and kind == 2 and 4 < length < _HEAD:
            text = self._read(start, length).rstrip(b"\0")
            if code == 270 or text == b"tifffile.py":  # names of other programs may mean a format of their own
                return text
        raise _OddError

    def _claim(self, start: int, length: int) -> None:
        if not length:
            raise _OddError
        self._pieces.append((start, start + length))

    def _read(self, start: int, length: int) -> bytes:
        if start + length <= len(self._head):
            return self._head[start : start + length]
        data = os.pread(self._number, length, start) if start + length <= self._size else b""
        if len(data) < length:
            raise _OddError
        return data
