"""Say where the arrays lie: a folder, or a bucket in object storage (:mod:`hela_store.store.bucket`).

Names are keys of Zarr relative to the root of the arrays, such as ``"embeddings/<key>/embedding/c.0.0.0.0"``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from hela_store.base.files import explain_os_errors, fsync_path, write_atomic
from hela_store.errors import BucketError, StoreError

from .shard import Index, find, index_bytes, parse_index

METADATA = "zarr.json"
T = TypeVar("T")


class Storage(Protocol):
    """Describe what arrays need of the place they lie in."""

    root: str
    """How the place is called in messages."""

    def zarr(self, *, read_only: bool) -> ZarrStore:
        """Return it as a Zarr store every write of which is durable on return."""
        ...

    def explain(self, what: str) -> AbstractContextManager[None]:
        """Turn what goes wrong with the place into a StoreError that says what was being done."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return what is stored under a name, None where nothing is."""
        ...

    def part(self, name: str, start: int, stop: int) -> bytes | None:
        """Return the bytes from ``start`` to before ``stop`` of what is stored under a name, None where nothing is."""
        ...

    def inner(self, name: str, number: int, rows: int) -> bytes | None:
        """Return the chunk of one row of a shard of ``rows`` rows, None where it is not there.

        Raises
        ------
        StoreError
            The index of the shard is damaged.
        """
        ...

    def index(self, name: str, rows: int) -> Index | None:
        """Return the index of a shard, None where it is not there; raises as :meth:`inner`."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Store bytes under a name; durable on return, and never half there."""
        ...

    def size(self, name: str) -> int | None:
        """Return how many bytes are stored under a name, None where nothing is."""
        ...

    def below(self, name: str) -> list[str]:
        """Return the names one level below a group, sorted."""
        ...

    def documents(self) -> list[str]:
        """Return the name of every ``zarr.json``, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Remove what is stored under a name, and below it."""
        ...

    def created(self, name: str) -> None:
        """Make durable that an array of this name was created."""
        ...

    def changed(self, name: str) -> None:
        """Forget what is known of a name, because it was written."""
        ...

    def doubt(self, name: str) -> bool:
        """Forget what is known of a name, because it was wrong; return whether reading it again may help."""
        ...


class Folder:
    """Arrays in a folder.

    Parameters
    ----------
    path : Path
        Made by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = str(path)

    def zarr(self, *, read_only: bool) -> ZarrStore:
        """See :class:`Storage`."""
        return _DurableStore(self.path, read_only=read_only)

    def explain(self, what: str) -> AbstractContextManager[None]:
        """See :class:`Storage`."""
        return explain_os_errors(what)

    def read(self, name: str) -> bytes | None:
        """See :class:`Storage`."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def part(self, name: str, start: int, stop: int) -> bytes | None:
        """See :class:`Storage`."""
        try:
            with (self.path / name).open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def inner(self, name: str, number: int, rows: int) -> bytes | None:
        """See :class:`Storage`."""
        try:
            # one file for index and chunk: another may take its place at any time
            with (self.path / name).open("rb") as file:
                place = find(_index(file, rows), number)
                if place is None:
                    return None
                file.seek(place[0])
                return file.read(place[1] - place[0])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def index(self, name: str, rows: int) -> Index | None:
        """See :class:`Storage`."""
        try:
            with (self.path / name).open("rb") as file:
                return _index(file, rows)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Storage`."""
        write_atomic(self.path / name, data)

    def size(self, name: str) -> int | None:
        """See :class:`Storage`."""
        try:
            return (self.path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def below(self, name: str) -> list[str]:
        """See :class:`Storage`."""
        folder = self.path / name
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def documents(self) -> list[str]:
        """See :class:`Storage`."""
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob(METADATA))

    def remove(self, name: str) -> None:
        """See :class:`Storage`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def created(self, name: str) -> None:
        """See :class:`Storage`."""
        folder = self.path / name
        while folder != self.path.parent:
            folder = folder.parent
            fsync_path(folder)

    def changed(self, name: str) -> None:
        """See :class:`Storage`; nothing is kept."""

    def doubt(self, name: str) -> bool:
        """See :class:`Storage`; a file is what it is."""
        return False


def _index(file: BinaryIO, rows: int) -> Index:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - index_bytes(rows)))
    return parse_index(file.read(), rows, size)


class _DurableStore(LocalStore):
    """Zarr's local store, but what was written is on the disk, and no file has its name before its bytes."""

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not (self.root / key).exists():
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check_writable()
        write_atomic(self.root / key, value.to_bytes())


def read_right(storage: Storage, names: Iterable[str], what: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, which compares what it reads with a sum.

    Where that is wrong, copies of it are dropped, and a bucket is asked once more: only an object that is wrong itself
    is an error.

    Parameters
    ----------
    storage : Storage
    names : iterable of str
        What ``read`` reads there.
    what : str
        What that is, for the message.
    read : callable

    Raises
    ------
    StoreError
        As ``read``, but the message begins with ``what``.
    """
    names = list(names)
    again = True
    while True:
        try:
            return read()
        except BucketError:
            raise
        except StoreError as error:
            # all of them, and those of the second reading as well
            doubted = [storage.doubt(name) for name in names]
            if not (again and any(doubted)):
                raise StoreError(f"{what}: {error}") from None
            again = False


def open_storage(folder: Path, data: str, cache_mib: int = 0) -> Storage:
    """Return where a store's arrays lie.

    Parameters
    ----------
    folder : Path
        ``arrays.zarr`` beside the recipe.
    data : str
        ``arrays.data`` of the recipe: empty for that folder, or ``"s3://bucket/prefix"``.
    cache_mib : int
        ``arrays.cache_mib`` of the recipe.

    Raises
    ------
    StoreError
        Both have arrays.
    ExtraError
        What object storage needs is not installed.
    """
    if not data:
        return Folder(folder)
    if folder.exists():
        raise StoreError(
            f"the recipe says that arrays lie in {data}, but there is {folder}; copy it there, for example with "
            f"`aws s3 sync {folder} {data}`, and then remove it, or take arrays.data out of store.toml"
        )
    from .bucket import Bucket
    from .read_cache import ReadCache

    return Bucket(data, folder.with_name("data.json"), ReadCache(folder.with_name("cache"), cache_mib << 20))
