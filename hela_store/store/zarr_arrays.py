"""Arrays of Zarr that are read and written a row at a time: every write is durable on return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import blosc
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding

from hela_store.base.names import check_name
from hela_store.errors import BucketError, StoreError

from .storage import METADATA, Folder, Storage

SEPARATOR = DefaultChunkKeyEncoding(separator=".")


class ZarrArrays:
    """Arrays below one root, opened once.

    Parameters
    ----------
    where : Storage or Path
        A folder is made by the first write.
    """

    def __init__(self, where: Storage | Path) -> None:
        self.storage: Storage = Folder(where) if isinstance(where, Path) else where
        self._open: dict[tuple[str, str], zarr.Array[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self.storage, "_open": {}}

    def _array(self, name: str, *, rows: int, mode: str = "r") -> zarr.Array[Any]:
        array = self._open.get((name, mode))
        if array is None or array.shape[0] < rows:
            root, name = self.storage.root, checked(name)
            if self.storage.size(f"{name}/{METADATA}") is None:
                raise StoreError(f"no array {name} in {root}; run `hela-store embed` first")
            try:
                # an all-zero image, or a chunk equal to the fill value, must still become a file
                with (
                    zarr.config.set({"array.write_empty_chunks": True}),
                    self.storage.explain(f"opening {root}/{name}"),
                ):
                    array = zarr.open_array(
                        self.storage.zarr(read_only=mode == "r"), path=name, mode=mode, zarr_format=3
                    )
            except (ValueError, TypeError, KeyError) as error:
                raise StoreError(f"{root}/{name} is damaged: {error}") from error
            self._open[name, mode] = array
        if array.shape[0] < rows:
            raise StoreError(f"{name} has {array.shape[0]} rows, expected at least {rows}; run `hela-store embed`")
        return array

    def _create(self, name: str, *, shape: tuple[int, ...], **options: Any) -> None:
        with self.storage.explain(f"writing {self.storage.root}/{name}"):
            if ((checked(name), "r+") not in self._open) and self.storage.size(f"{name}/{METADATA}") is None:
                root = zarr.open_group(self.storage.zarr(read_only=False), mode="a", use_consolidated=False)
                root.create_array(name, shape=shape, chunk_key_encoding=SEPARATOR, overwrite=False, **options)
                self.storage.created(name)
                return
            array = self._array(name, rows=0, mode="r+")
            if array.shape[1:] != shape[1:] or array.dtype != numpy_dtype(options["dtype"]):
                raise StoreError(
                    f"{name} holds {array.dtype} {array.shape[1:]}, cannot take {options['dtype']} {shape[1:]}"
                )
            if array.shape[0] < shape[0]:
                array.resize(shape)
                self._open.clear()

    def _write(self, name: str, row: int, values: npt.NDArray[Any]) -> None:
        array = self._array(name, rows=row + 1, mode="r+")
        if values.shape != array.shape[1:] or not np.can_cast(values.dtype, array.dtype, "same_kind"):
            raise StoreError(f"{name} holds {array.dtype} {array.shape[1:]}, cannot take {values.dtype} {values.shape}")
        with self.storage.explain(f"writing {self.storage.root}/{name}"):
            array[row] = values
        self.storage.changed(f"{name}/{chunk_name(array, row)}")

    def _stored(self, name: str, array: zarr.Array[Any], row: int) -> bytes | None:
        """Return the chunk of one row as it is stored; None where it is not there."""
        return self.storage.read(f"{name}/{chunk_name(array, row)}")

    def _read(self, name: str, row: int) -> npt.NDArray[Any] | None:
        """Return one row; None where its chunk is not there."""
        array = self._array(name, rows=row + 1)
        where, way_out = f"{self.storage.root}/{name}/{chunk_name(array, row)}", "run `hela-store verify --repair`"
        try:
            data = self._stored(name, array, row)
        except BucketError:
            raise
        except StoreError as error:
            raise StoreError(f"{where} is damaged: {error}") from None
        if data is None:
            return None
        damaged = f"{where} is damaged"
        wrong = wrong_length(array, data)
        if wrong:
            raise StoreError(f"{damaged}: it is too {wrong}; {way_out}")
        try:
            # what zarr-python does with such a chunk, in a fifth of the time
            values = np.empty(array.shape[1:], array.dtype.newbyteorder("<"))
            if array.compressors:
                blosc.decompress(data, values)
            else:
                values[...] = np.frombuffer(data, values.dtype).reshape(values.shape)
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{damaged}: {error}; {way_out}") from error
        return values.astype(array.dtype, copy=False)


def checked(name: str) -> str:
    """Return the name of an array; StoreError where a group or encoder key in it would lead out of the arrays."""
    return "/".join(check_name(part, "the group of an array") for part in name.split("/"))


def rows_per_shard(array: zarr.Array[Any]) -> int:
    """Return how many rows one object of an array holds, each a chunk of its own; 0 where an object is a chunk."""
    return int(array.shards[0]) if array.shards else 0


def chunk_name(array: zarr.Array[Any], row: int) -> str:
    """Return the name, below that of the array, of the object that holds a row."""
    return ".".join(["c", str(row // (rows_per_shard(array) or 1)), *("0" for _ in array.shape[1:])])


def wrong_length(array: zarr.Array[Any], data: bytes) -> str:
    """Say whether a chunk is too ``"short"`` or too ``"long"``, ``""`` where it is neither.

    Blosc would read past the end of one that was cut. Its header has two little-endian uint32: at byte 4 the length
    of the values, at byte 12 that of the chunk (c-blosc, README_CHUNK_FORMAT.rst).
    """
    expected = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    if array.compressors:
        header = data[:16]
        if len(header) == 16 and int.from_bytes(header[4:8], "little") != expected:
            return "short" if int.from_bytes(header[4:8], "little") < expected else "long"
        expected = int.from_bytes(header[12:], "little") if len(header) == 16 else 16
    return "" if len(data) == expected else "short" if len(data) < expected else "long"


def numpy_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the type of NumPy by the name that an array is made with; text has a variable length."""
    return np.dtypes.StringDType() if dtype == "string" else np.dtype(dtype)
