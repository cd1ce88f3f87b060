"""The store's arrays: ``arrays.zarr``, Zarr v3, one chunk per frame and one per embedding.

Written with plain zarr-python into a folder or a bucket, where every write is durable on return. Metadata is never
consolidated: after a resize the old length would be shown in silence. Chunk keys are joined by ``.``, so an array is
one flat folder.

Layout::

    frames/<group>/{image,label,valid}        (frame, row, col)     any uint/float, int32, bool
    views/<rows>x<cols>/{label,valid}         (view, row, col)      int32, bool; of augmented variants only
    embeddings/<key>/embedding                (view, channel, y, x) float16 or float32, fill NaN; maybe in shards
                                              (view, y, x, channel) where the key is of an encoder that is cut
    embeddings/<key>/{view,frame,tile,variant}  (view)              string, string, int32, int32
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr
from zarr.codecs import BloscCodec

from hela_store.base.aliases import BoolArray, FloatArray, LabelArray
from hela_store.errors import BucketError, StoreError
from hela_store.recipe.codecs import parse_codec

from .shard import NONE
from .staged import Staged
from .storage import METADATA, Folder, Storage
from .zarr_arrays import SEPARATOR, ZarrArrays, chunk_name, rows_per_shard, wrong_length

EMBEDDING_SHAPE = (256, 64, 64)
COORDINATES = ("view", "frame", "tile", "variant")
COORDINATE_CHUNK = 4096
EMBEDDING_DIMS = ("view", "channel", "y", "x")
TOKEN_DIMS = ("view", "y", "x", "channel")
FRAME_DIMS = ("frame", "row", "col")
VIEW_DIMS = ("view", "row", "col")

Shape = tuple[int, int, int]


class Columns(Protocol):
    """Describe a table that is asked for some rows at a time, such as a ``pyarrow.Table``."""

    def __len__(self) -> int: ...

    def slice(self, offset: int, length: int) -> pa.Table:
        """Return some rows."""
        ...


class Arrays(ZarrArrays):
    """Arrays in ``<store>/arrays.zarr``.

    Parameters
    ----------
    where : Storage or Path
        A folder is made by the first write.
    staged : Path
        Where embeddings wait for their shard, ``<store>/staged``; asked only where embeddings are in shards.
    """

    def __init__(self, where: Storage | Path, staged: Path | None = None) -> None:
        super().__init__(where)
        self.staged = Staged(staged or Path(self.storage.root).with_name("staged"))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"staged": self.staged}

    @property
    def start_method(self) -> str | None:
        """Way to start processes that read on (``multiprocessing_context`` of a loader); None for any way."""
        # connections to a bucket do not survive a fork
        return None if isinstance(self.storage, Folder) else "spawn"

    # frames

    def add_frame_group(self, group: str, frames: int, shape_rc: tuple[int, int], dtype: npt.DTypeLike) -> None:
        """Make or extend the arrays of frames of one size.

        Parameters
        ----------
        group : str
            Name under ``frames/``.
        frames : int
            How many frames it must have room for, counted from its first; never shrinks.
        shape_rc : (int, int)
            Rows and columns, px.
        dtype : dtype of the images

        Raises
        ------
        StoreError
            The group exists with another size or dtype; no space, no permission.
        """
        for name, kind in (("image", np.dtype(dtype)), ("label", np.dtype("int32")), ("valid", np.dtype("bool"))):
            codec = BloscCodec(typesize=kind.itemsize, cname="zstd", clevel=3, shuffle="shuffle")
            self._create(
                f"frames/{group}/{name}",
                shape=(frames, *shape_rc),
                chunks=(1, *shape_rc),
                dtype=kind,
                fill_value=kind.type(0),
                compressors=(codec,),
                dimension_names=FRAME_DIMS,
            )

    def write_frame(
        self, group: str, row: int, image: npt.NDArray[Any], label: LabelArray | None, valid: BoolArray
    ) -> None:
        """Write one frame durably.

        Parameters
        ----------
        group, row : str, int
            Where: the group and the index in it.
        image : (row, col), dtype of the group
        label : int32, (row, col), or None (reads as all 0)
        valid : bool, (row, col)

        Raises
        ------
        StoreError
            Shape, dtype or row do not fit the group; no space, no permission.
        """
        parts: dict[str, npt.NDArray[Any] | None] = {"image": image, "label": label, "valid": valid}
        for name, part in parts.items():
            if part is not None:
                self._write(f"frames/{group}/{name}", row, part)

    def frame_array(self, group: str, name: str) -> zarr.Array[Any]:
        """Return the Zarr array of ``"image"``, ``"label"`` or ``"valid"`` of a group, read-only."""
        return self._array(f"frames/{group}/{name}", rows=0)

    def frame_part(self, group: str, row: int, name: str) -> npt.NDArray[Any] | None:
        """Return ``"image"``, ``"label"`` or ``"valid"`` of a frame, (row, col), None where it is not there.

        Nothing is compared; readers use :class:`hela_store.store.pixels.Pixels`.

        Raises
        ------
        StoreError
            No such group, or a damaged chunk.
        """
        return self._read(f"frames/{group}/{name}", row)

    # labels of augmented views

    def add_view_truth(self, shape_rc: tuple[int, int], rows: int) -> None:
        """Make or extend the arrays of labels of variants of one size; only the planner calls this.

        Parameters
        ----------
        shape_rc : (int, int)
            Rows and columns of the views, px.
        rows : int
            How many views of any kind the plan numbers; a chunk is there only for variants of this size.
        """
        for name, kind in (("label", np.dtype("int32")), ("valid", np.dtype("bool"))):
            self._create(
                f"{_view_group(shape_rc)}/{name}",
                shape=(rows, *shape_rc),
                chunks=(1, *shape_rc),
                dtype=kind,
                fill_value=kind.type(0),
                compressors=(BloscCodec(typesize=kind.itemsize, cname="zstd", clevel=3, shuffle="shuffle"),),
                dimension_names=VIEW_DIMS,
            )

    def write_view_truth(self, row: int, label: LabelArray, valid: BoolArray) -> None:
        """Write durably the labels, int32, of a variant and where they say something, bool, both (row, col).

        Parameters
        ----------
        row : int
            Of the view in the plan.
        """
        for name, part in (("label", label), ("valid", valid)):
            self._write(f"{_view_group((label.shape[0], label.shape[1]))}/{name}", row, part)

    def view_truth(self, shape_rc: tuple[int, int], row: int) -> tuple[LabelArray, BoolArray]:
        """Return what :meth:`write_view_truth` wrote.

        Nothing is compared; readers use :meth:`hela_store.store.store.Store.view_truth`.

        Raises
        ------
        StoreError
            It was never written, or is damaged.
        """
        return self._read_view(shape_rc, "label", row), self._read_view(shape_rc, "valid", row)

    def _read_view(self, shape_rc: tuple[int, int], name: str, row: int) -> npt.NDArray[Any]:
        # a chunk that is not there reads as zeros, and zeros pass for a view without cells
        found = self._read(f"{_view_group(shape_rc)}/{name}", row)
        if found is None:
            where = f"{self.storage.root}/{view_chunk(shape_rc, name, row)}"
            raise StoreError(f"{where} is not there; `hela-store verify --repair` makes it again")
        return found

    # embeddings

    def create_embeddings(
        self, key: str, rows: int, dtype: str, codec: str, shape: Shape = EMBEDDING_SHAPE, shard: int = 0
    ) -> None:
        """Make or extend the embeddings of one encoder key; only the planner calls this.

        Parameters
        ----------
        key : str
            Encoder key.
        rows : int
            How many views the array must have room for; never shrinks.
        dtype : str
            ``"float16"`` or ``"float32"``.
        codec : str
            As in the recipe (:func:`hela_store.recipe.codecs.parse_codec`); an array that exists keeps its own.
        shape : (int, int, int)
            Of one view: (256, 64, 64), CHW, or (64, 64, C) tokens, HWC.
        shard : int
            Views in one object, 0 for an object a view; an array that exists keeps its own.

        Raises
        ------
        RecipeError
            Unknown codec.
        StoreError
            The array exists with another dtype; no space, no permission.
        """
        self._create(f"embeddings/{key}/embedding", **_embedding_options(rows, dtype, codec, shape, shard))

    def write_coordinates(self, key: str, columns: Columns, *, from_end: bool = False) -> None:
        """Write durably which view each row is: ``view``, ``frame`` (strings), ``tile``, ``variant`` (integers).

        Only the chunks that say something else are written, in their order.

        Parameters
        ----------
        key : str
            Encoder key.
        columns : pyarrow.Table, or what gives one for some rows
        from_end : bool
            Compare from the last chunk on, down to one that is right: those before it were written before it. All are
            compared by default, because a plan that was lost and made again changes rows in the middle.
        """
        for name in COORDINATES:
            text = name in ("view", "frame")
            where = f"embeddings/{key}/{name}"
            self._create(
                where,
                shape=(len(columns),),
                chunks=(COORDINATE_CHUNK,),
                dtype="string" if text else np.dtype("int32"),
                fill_value="" if text else -1,
                compressors="auto",
                dimension_names=("view",),
            )
            array = self._array(where, rows=len(columns), mode="r+")
            with self.storage.explain(f"writing {self.storage.root}/{where}"):
                begin = _first_wrong(array, columns, name) if from_end else 0
                for first in range(begin, len(columns), COORDINATE_CHUNK):
                    values = _values(array, columns, name, first)
                    rows = slice(first, first + len(values))
                    if (np.asarray(array[rows]) != values).any():
                        array[rows] = values

    def write_embedding(self, key: str, row: int, array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Write one embedding; its chunk is durable on return, of an array with shards as a staged one.

        Parameters
        ----------
        key, row : str, int
            Encoder key, and the view's row in the plan.
        array : float, of the key's shape

        Returns
        -------
        float16 or float32, of the same shape
            What was stored: in the array's dtype, rounded as its codec says.

        Raises
        ------
        StoreError
            Wrong shape, values that are not finite in the stored dtype, a row the planner did not make; no space,
            no permission.
        """
        name = f"embeddings/{key}/embedding"
        target = self._array(name, rows=row + 1, mode="r+")
        if array.shape != target.shape[1:]:
            raise StoreError(f"an embedding of shape {array.shape} cannot be stored, expected {target.shape[1:]}")
        with np.errstate(over="ignore"):
            values = array.astype(target.dtype)
        if not np.isfinite(values).all():
            worst = float(np.abs(array.astype(np.float64)).max())
            raise StoreError(
                f"row {row} of {key} has values that {target.dtype} cannot hold (largest {worst:.6g}, limit "
                f'{np.finfo(target.dtype).max:.6g}); set arrays.dtype = "float32" in store.toml'
            )
        codec = parse_codec(str(target.attrs["codec"]), str(target.dtype))
        stored = codec.prepare(values)
        if rows_per_shard(target):
            self.staged.write(key, row, codec.encode(stored))
            return stored
        chunk = f"{name}/{chunk_name(target, row)}"
        with self.storage.explain(f"writing {self.storage.root}/{name}"):
            self.storage.write(chunk, codec.encode(stored))
        self.storage.changed(chunk)
        return stored

    def embedding(self, key: str, row: int) -> FloatArray:
        """Return one embedding as stored, (256, 64, 64), CHW, or tokens, (64, 64, C).

        Nothing is compared; readers use :meth:`hela_store.store.store.Store.embedding_at`.

        Raises
        ------
        StoreError
            No such array or row, or a chunk that is lost or damaged.
        """
        array = self.embedding_array(key, row + 1)
        if not array.compressors and not array.shards and isinstance(self.storage, Folder):
            # without a copy
            with contextlib.suppress(FileNotFoundError):
                values = np.fromfile(self.chunk_path(key, row), array.dtype.newbyteorder("<"))
                if values.size == np.prod(array.shape[1:]):
                    return values.reshape(array.shape[1:]).astype(array.dtype, copy=False)
        found = self._read(f"embeddings/{key}/embedding", row)
        if found is None:
            where = f"{self.storage.root}/{self.chunk_name(key, row)}"
            raise StoreError(f"{where} is not there; `hela-store verify --repair` encodes it again")
        return found

    def embedding_array(self, key: str, rows: int = 0) -> zarr.Array[Any]:
        """Return the Zarr array, (view, ...), of a key with at least ``rows`` rows, read-only."""
        return self._array(f"embeddings/{key}/embedding", rows=rows)

    def embedding_keys(self) -> list[str]:
        """Return the encoder keys there are embeddings of, sorted."""
        keys = self.storage.below("embeddings")
        return [key for key in keys if self.storage.size(f"embeddings/{key}/embedding/{METADATA}") is not None]

    def is_cut_short(self, key: str, row: int) -> bool:
        """Whether the file of an embedding is shorter than it says, or than it must be."""
        data = self._stored(f"embeddings/{key}/embedding", self.embedding_array(key), row)
        return data is not None and wrong_length(self.embedding_array(key), data) == "short"

    def metadata_fault(self, key: str, rows: int, dtype: str, codec: str, shape: Shape) -> str | None:
        """Say how a key's ``zarr.json`` differs from what :meth:`create_embeddings` writes, if it does."""
        array = self.embedding_array(key)
        own = str(array.attrs.get("codec", codec)), shape, rows_per_shard(array)
        options = _embedding_options(array.shape[0], dtype, *own)
        expected = zarr.create_array({}, chunk_key_encoding=SEPARATOR, **options).metadata.to_dict()
        found = array.metadata.to_dict()
        if array.shape[0] < rows:
            return f"it has {array.shape[0]} rows, the plan {rows}"
        return next((f"{name} is {found.get(name)}" for name in expected if expected[name] != found.get(name)), None)

    def coordinate(self, key: str, name: str) -> list[Any]:
        """Return what the coordinate ``name`` says of every row."""
        with self.storage.explain(f"reading {self.storage.root}/embeddings/{key}/{name}"):
            values: list[Any] = np.asarray(self._array(f"embeddings/{key}/{name}", rows=0)[:]).tolist()
        return values

    def coordinate_at(self, key: str, name: str, row: int) -> str | int:
        """Return what the coordinate ``name`` says of a row; reads the one chunk that holds it."""
        with self.storage.explain(f"reading {self.storage.root}/embeddings/{key}/{name}"):
            value = np.asarray(self._array(f"embeddings/{key}/{name}", rows=row + 1)[row])
        return str(value) if name in ("view", "frame") else int(value)

    def restore_group(self, name: str) -> None:
        """Write the description of a group of arrays that lost it."""
        with self.storage.explain(f"writing {self.storage.root}/{name}"):
            zarr.open_group(self.storage.zarr(read_only=False), path=name, mode="a")

    def chunk_name(self, key: str, row: int) -> str:
        """Return the name in the storage of the object that holds one embedding."""
        return f"embeddings/{key}/embedding/c.{row // (self.views_per_shard(key) or 1)}.0.0.0"

    def views_per_shard(self, key: str) -> int:
        """Return how many embeddings of a key one object holds; 0 where each is an object, or where there are none."""
        try:
            return rows_per_shard(self.embedding_array(key))
        except BucketError:
            raise
        except StoreError:  # there is no such array, or it is damaged
            return 0

    def rows_in_shard(self, key: str, shard: int) -> set[int]:
        """Return the rows whose embeddings are in a shard, by its number; StoreError where its index is damaged."""
        count = self.views_per_shard(key)
        index = self.storage.index(self.chunk_name(key, shard * count), count)
        return set() if index is None else set((np.flatnonzero(index[:, 0] != NONE) + shard * count).tolist())

    def chunk_size(self, key: str, row: int) -> int | None:
        """Return how many bytes an embedding takes, None where it is not there; raises as :meth:`rows_in_shard`."""
        count, name = self.views_per_shard(key), self.chunk_name(key, row)
        if not count:
            return self.storage.size(name)
        size = self.staged.size(key, row)
        if size is None:
            index = self.storage.index(name, count)
            size = None if index is None or index[row % count, 0] == NONE else int(index[row % count, 1])
        return size

    def stored_rows(self, key: str) -> set[int]:
        """Return the rows of which there is anything; lists every object."""
        there = self.storage.below(f"embeddings/{key}/embedding")
        numbers = [int(name.split(".")[1]) for name in there if name.startswith("c.")]
        if not self.views_per_shard(key):
            return set(numbers)
        found = set(self.staged.rows(key))
        for number in numbers:
            with contextlib.suppress(StoreError):
                found |= self.rows_in_shard(key, number)
        return found

    def _stored(self, name: str, array: zarr.Array[Any], row: int) -> bytes | None:
        count = rows_per_shard(array)
        if not count:
            return super()._stored(name, array, row)
        data = self.staged.read(name.split("/")[1], row)
        return data if data is not None else self.storage.inner(f"{name}/{chunk_name(array, row)}", row % count, count)

    def chunk_path(self, key: str, row: int) -> Path:
        """Return the file that holds one embedding, of arrays in a folder."""
        return Path(self.storage.root) / self.chunk_name(key, row)


def frame_chunk(group: str, name: str, row: int) -> str:
    """Return the name in the storage of ``"image"``, ``"label"`` or ``"valid"`` of one frame."""
    return f"frames/{group}/{name}/c.{row}.0.0"


def view_chunk(shape_rc: tuple[int, int], name: str, row: int) -> str:
    """Return the name in the storage of ``"label"`` or ``"valid"`` of one variant."""
    return f"{_view_group(shape_rc)}/{name}/c.{row}.0.0"


def _values(array: zarr.Array[Any], columns: Columns, name: str, first: int) -> npt.NDArray[Any]:
    """Return what a coordinate is to say in the chunk that begins at row ``first``."""
    part = columns.slice(first, COORDINATE_CHUNK)[name]
    return np.asarray(part.to_numpy() if array.dtype.kind == "i" else part.to_pylist(), dtype=array.dtype)


def _first_wrong(array: zarr.Array[Any], columns: Columns, name: str) -> int:
    """Return the first row of the chunk behind the last one that is right, of chunks that were written in order.

    A chunk of fill values proves nothing, because one that was never written reads as such.
    """
    begin = (len(columns) - 1) // COORDINATE_CHUNK * COORDINATE_CHUNK
    while begin >= 0:
        values = _values(array, columns, name, begin)
        right = np.asarray(array[begin : begin + len(values)]) == values
        if right.all() and (values != array.fill_value).any():
            return begin + COORDINATE_CHUNK
        begin -= COORDINATE_CHUNK
    return 0


def embedding_dims(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the dimensions of an array of what is stored of a view in this shape."""
    return EMBEDDING_DIMS if shape == EMBEDDING_SHAPE else TOKEN_DIMS


def _embedding_options(rows: int, dtype: str, codec: str, shape: Shape, shard: int) -> dict[str, Any]:
    kind = np.dtype(dtype)
    return {
        "shape": (rows, *shape),
        "chunks": (1, *shape),
        "shards": (shard, *shape) if shard else None,
        "dtype": kind,
        "fill_value": float("nan"),
        "compressors": parse_codec(codec, dtype).compress(kind.itemsize),
        "dimension_names": embedding_dims(shape),
        "attributes": {"codec": codec},
    }


def _view_group(shape_rc: tuple[int, int]) -> str:
    return f"views/{shape_rc[0]}x{shape_rc[1]}"
