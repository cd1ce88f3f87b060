"""Read the tensors of a torch file that holds objects too, and make none of these objects.

A trainer's checkpoint, such as micro-sam's ``best.pt``, has pickled data sets beside its tensors, and to unpickle
an object may run any code. Here a pickle can reach four things: an ordered dictionary, the kind of a storage, the note
of where a tensor lies, and a stub that stands for every other name and does nothing. None of them runs code of the file
or of a library, and each read has a stub of its own. The tensors are made from the notes afterwards, by name.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

CHUNK = 1 << 20
KINDS = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Kind(NamedTuple):
    """The dtype of a storage."""

    dtype: torch.dtype


class _Storage(NamedTuple):
    """The numbers of a storage: which file of the archive, and their dtype."""

    key: str
    dtype: torch.dtype


class _Place(NamedTuple):
    """Describe where a tensor lies in its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Rebuild:
    """Stands for ``torch._utils._rebuild_tensor_v2``: notes where the tensor lies."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Place:
        whole = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in whole):
            raise pickle.UnpicklingError("a tensor that is none")
        return _Place(storage, offset, tuple(shape), tuple(strides))


class _Parameter:
    """Stands for ``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, data: Any, *_: Any) -> Any:
        return data


class _Stub:
    """Takes whatever a pickle does with an object, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Stub:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Stub:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an item of a list."""

    extend = add = append


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytearray) -> None:
        super().__init__(io.BytesIO(data))
        # a pickle may set attributes of a class, so no two reads share one
        self.stub = type("Stub", (_Stub,), {})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in KINDS:
            return _Kind(KINDS[name])
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _Rebuild()
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _Parameter()
        return self.stub

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 3 and isinstance(pid[1], _Kind) and isinstance(pid[2], str):
            return _Storage(pid[2], pid[1].dtype)
        return self.stub()


class InertFile:
    """A torch file in the zip format, open for reading.

    Parameters
    ----------
    path : of the file

    Raises
    ------
    Exception
        Of any kind: not such a file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._zip = ZipFile(path)
        names = [name for name in self._zip.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(names) != 1:
            raise pickle.UnpicklingError(f"{len(names)} files data.pkl in it")
        self._root = names[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in self._zip.namelist() and self._read("byteorder") != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        self.content = _Unpickler(self._read("data.pkl")).load()

    def tensors(self, found: dict[Any, Any]) -> dict[str, Tensor]:
        """Return the tensors among the values of a dictionary of this file, by name."""
        # not found.items(): a pickle may have put something else under that name
        places = {key: value for key, value in dict.items(found) if isinstance(value, _Place) and type(key) is str}
        buffers: dict[_Storage, Tensor] = {}
        for place in places.values():
            if place.storage not in buffers:
                data = self._read(f"data/{place.storage.key}")
                buffers[place.storage] = torch.frombuffer(data, dtype=place.storage.dtype) if data else torch.empty(0)
        return {key: _tensor(buffers[place.storage], place) for key, place in places.items()}

    def _read(self, name: str) -> bytearray:
        info = self._zip.getinfo(self._root + name)
        if info.compress_type != ZIP_STORED:
            raise pickle.UnpicklingError(f"{name} is compressed, which torch never does")
        out, filled = bytearray(info.file_size), 0
        view = memoryview(out)
        # in parts, so that no tensor is in memory twice; the last part checks the sum
        with self._zip.open(info) as file:
            while part := file.read(CHUNK):
                view[filled : filled + len(part)] = part
                filled += len(part)
        if filled != len(out):
            raise EOFError(f"{name} is incomplete")
        return out


def _tensor(buffer: Tensor, place: _Place) -> Tensor:
    if math.prod(place.shape) == 0:
        return torch.empty(place.shape, dtype=place.storage.dtype)
    last = place.offset + sum((size - 1) * step for size, step in zip(place.shape, place.strides, strict=True))
    if last >= len(buffer):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return buffer.as_strided(place.shape, place.strides, place.offset)
