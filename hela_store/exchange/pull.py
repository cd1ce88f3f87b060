"""Pull a published store into a folder: by ranges, each file compared with its sha256, and resumable."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hela_store.base.executors import in_threads
from hela_store.base.files import explain_os_errors, fsync_path, fsync_tree, sha256_file
from hela_store.base.locks import claim
from hela_store.base.names import inside
from hela_store.base.progress import Progress, silent
from hela_store.errors import AlreadyComplete, StoreError
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.store.storage import Storage
from hela_store.store.store import Store

from .published import PublishedFile, open_place, read_published

RANGE = 8 << 20
"""Bytes that are asked for in one request."""
READERS = 8
AHEAD = 256
LEAST_EXPECTED = 8
"""Letters of a sha256 that are enough to name a publication."""


@dataclass(frozen=True, kw_only=True)
class PullReport:
    """Result of a pull.

    Attributes
    ----------
    path : str
        Of the store.
    source : str
        The folder or bucket it was published in.
    files, bytes : int
        How many files it has, and their size in all.
    before : int
        Files that an interrupted pull had left.
    sha256 : str
        Of the manifest, by which the whole publication is known.
    """

    path: str
    source: str
    files: int
    bytes: int
    before: int
    sha256: str


def pull(source: str, path: Path, *, expected: str | None = None, progress: Progress = silent) -> PullReport:
    """Make a store of a published one; the same call goes on where one was interrupted.

    The store gets its name when all its files are there and right.

    Parameters
    ----------
    source : str
        A folder, or ``"s3://bucket/prefix"``.
    path : Path
        The folder of the new store; must not exist.
    expected : str or None
        The sha256 of the manifest as ``publish`` reported it, or its first 8 letters and more: another publication is
        refused.

    Raises
    ------
    StoreError
        Nothing is published there, it is damaged or another, ``path`` exists, no space, no permission.
    BucketError
        The bucket cannot be read.
    AlreadyComplete
        ``path`` is a store.
    """
    if (path / RECIPE_FILE).exists():
        raise AlreadyComplete(f"{path} is a store already; choose another name, or remove it")
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path} exists and is no store; choose another name, or remove it")
    place = open_place(source)
    head, files = read_published(place)
    if expected is not None and not (len(expected) >= LEAST_EXPECTED and head.sha256.startswith(expected)):
        raise StoreError(
            f"{place.root} holds the publication {head.sha256}, expected {expected}; ask who published it which of the "
            "two is right"
        )
    partial_path = path.with_name(f".{path.name}.{head.sha256[:16]}.partial")
    with explain_os_errors(f"making {partial_path}"):
        partial_path.mkdir(parents=True, exist_ok=True)
    with claim(path.parent, f"{path.name}.pull", wait=True, progress=progress):
        if (path / RECIPE_FILE).exists():
            raise AlreadyComplete(f"{path} is a store already: another process pulled it")
        before = _pull_all(place, partial_path, files, progress)
        fsync_tree(partial_path)
        with explain_os_errors(f"making {path}"):
            partial_path.rename(path)
            fsync_path(path.parent)
    Store.open(path)
    return PullReport(
        path=str(path), source=place.root, files=head.files, bytes=head.bytes, before=before, sha256=head.sha256
    )


def _pull_all(place: Storage, folder: Path, files: list[PublishedFile], progress: Progress) -> int:
    """Bring every file into the folder; return how many were there."""
    with closing(in_threads(partial(_pull_one, place, folder), files, threads=READERS, ahead=AHEAD)) as done:
        return sum(progress(done, total=len(files), what="pull"))


def _pull_one(place: Storage, folder: Path, file: PublishedFile) -> bool:
    """Bring one file into the folder; return whether it was there and right."""
    path = inside(folder, *file.path.split("/"), what="a file of the published store")
    if path.is_file() and path.stat().st_size == file.bytes and sha256_file(path) == file.sha256:
        return True
    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        for fresh in (False, True):  # what an interrupted pull left may be wrong: then all of it is asked for again
            if _fetch(place, file, part, fresh=fresh):
                part.replace(path)
                return False
    raise StoreError(
        f"{place.root}/{file.object} is damaged: its bytes are not those of {file.path} that were published; publish "
        "the store again"
    )


def _fetch(place: Storage, file: PublishedFile, part: Path, *, fresh: bool) -> bool:
    """Ask for what is missing of a file; return whether its bytes are those that were published."""
    start = part.stat().st_size if part.is_file() and not fresh else 0
    with part.open("r+b" if start else "wb") as sink:
        sink.seek(start)
        for begin in range(start, file.bytes, RANGE):
            end = min(begin + RANGE, file.bytes)
            data = place.part(file.object, begin, end)
            if data is None or len(data) != end - begin:
                return False
            sink.write(data)
        sink.truncate()
    return part.stat().st_size == file.bytes and sha256_file(part) == file.sha256
