"""Publish a store: what another lab needs to tune on its embeddings, as files that are each named by their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hela_store.base.executors import in_threads
from hela_store.base.locks import embed_lock
from hela_store.base.progress import Progress, silent
from hela_store.base.segments import LABELS
from hela_store.errors import StoreError
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.recipe.toml import recipe_text
from hela_store.runs.folder import load_run
from hela_store.store.arrays import COORDINATES, view_chunk
from hela_store.store.storage import METADATA, Storage
from hela_store.store.store import Store

from .published import HEAD, Head, PublishedFile, head_bytes, manifest_bytes, object_name, open_place

ARRAYS = "arrays.zarr"
WRITERS = 8
AHEAD = 256
"""Files that are read and written at one time at most, so that a million of them take no memory."""
Read = Callable[[], bytes]
"""Returns the bytes of a file, after they were compared with what was committed."""


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Describe what is published beside recipe, plan and weights.

    Attributes
    ----------
    keys : tuple of str
        Encoder keys of the embeddings; the recipe's where empty.
    runs : tuple of str
        Runs (ids, their beginnings or ``"latest"``).
    frames : bool
        Whether frames and their labels are, too; without them nothing can be tuned or scored.
    """

    keys: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    frames: bool = True


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """Result of a publication.

    Attributes
    ----------
    where : str
        The folder or bucket.
    views, files, bytes : int
        Embeddings, files and their size in all.
    written : int
        Files whose bytes were not there before.
    sha256 : str
        Of the manifest, by which the whole publication is known.
    """

    where: str
    views: int
    files: int
    bytes: int
    written: int
    sha256: str


def publish(
    store: Store, where: str, config: PublishConfig | None = None, *, progress: Progress = silent
) -> PublishReport:
    """Publish a store in a folder or a bucket; the same call goes on where one was interrupted.

    Everything that is read is compared with the sum it was committed with. Who reads sees the publication before this
    one until the last step.

    Parameters
    ----------
    store : Store
    where : str
        A folder, or ``"s3://bucket/prefix"``.
    config : PublishConfig

    Raises
    ------
    StoreError
        An embedding or a file is damaged, a key has no embeddings, another process embeds, no space, no permission.
    RunError
        A run is unknown or damaged.
    BucketError
        The bucket cannot be written to.
    """
    config, place = config or PublishConfig(), open_place(where)
    keys = config.keys or (store.key,)
    with embed_lock(store.path):
        for key in keys:
            store.gather(key)
        views = {key: store.committed(key) for key in keys}
        if empty := [key for key, rows in views.items() if not rows]:
            raise StoreError(f"there is no embedding under {empty[0]}, so there is nothing to publish; embed first")
        sources = [*_files(store, keys, config.runs), *_embeddings(store, views)]
        sources += list(_frames(store)) if config.frames else []
        # groups of arrays describe themselves once
        files, written = _write_all(place, [*dict(sources).items()], progress)
    data = manifest_bytes(files)
    total, size = hashlib.sha256(data).hexdigest(), sum(file.bytes for file in files)
    head = Head(
        name=store.recipe.name, manifest=f"manifest-{total[:16]}.parquet", sha256=total, files=len(files), bytes=size
    )
    place.write(head.manifest, data)
    place.write(HEAD, head_bytes(head))
    count = sum(map(len, views.values()))
    return PublishReport(where=place.root, views=count, files=len(files), bytes=size, written=written, sha256=total)


Source = tuple[str, Read]
"""Path of a file in the store, and what reads it."""


def _write_all(place: Storage, sources: Sequence[Source], progress: Progress) -> tuple[list[PublishedFile], int]:
    """Write the bytes of every file that are not there; return the files, and how many were written."""
    files, written = [], 0
    with closing(in_threads(partial(_write_one, place), sources, threads=WRITERS, ahead=AHEAD)) as done:
        for file, new in progress(done, total=len(sources), what="publish"):
            files.append(file)
            written += new
    return files, written


def _write_one(place: Storage, source: Source) -> tuple[PublishedFile, bool]:
    path, read = source
    data = read()
    sha256 = hashlib.sha256(data).hexdigest()
    name = object_name(sha256)
    new = place.size(name) != len(data)  # an object is wholly there or not at all, and its name says what it holds
    if new:
        place.write(name, data)
    return PublishedFile(path=path, bytes=len(data), sha256=sha256), new


# ---- what is published


def _files(store: Store, keys: Sequence[str], runs: Sequence[str]) -> Iterator[Source]:
    # where the arrays lie is this lab's matter
    recipe = replace(store.recipe, arrays=replace(store.recipe.arrays, data=""))
    yield RECIPE_FILE, recipe_text(recipe).encode
    for path in (*sorted((store.path / "ingest").glob("*.parquet")), *sorted((store.path / "plan").glob("*.parquet"))):
        yield _name(store, path), partial(store.sums.read, path, way_out="run `hela-store verify --repair`")
    folders = [store.ledger(key).path for key in keys] + [store.encoder_folder(key) for key in keys]
    plain = [store.sums.root / "sums.json", *(path for folder in folders for path in sorted(folder.glob("[!.]*")))]
    plain += sorted((store.path / "truths").glob("[!.]*"))
    for path in filter(Path.is_file, plain):
        yield _name(store, path), path.read_bytes
    for run in dict.fromkeys(runs):
        info = load_run(store.path, run)
        for path in sorted(path for path in info.path.iterdir() if path.is_file()):
            yield _name(store, path), info.file(path.name).read_bytes


def _name(store: Store, path: Path) -> str:
    return path.relative_to(store.path).as_posix()


def _embeddings(store: Store, views: dict[str, dict[str, int]]) -> Iterator[Source]:
    storage = store.arrays.storage
    for key, rows in views.items():
        folder = f"embeddings/{key}"
        yield from _described(storage, f"{folder}/embedding")
        for name in COORDINATES:
            yield from _described(storage, f"{folder}/{name}")
            chunks = (each for each in storage.below(f"{folder}/{name}") if each != METADATA)
            yield from (_stored(storage, f"{folder}/{name}/{chunk}") for chunk in chunks)
        objects: dict[str, list[int]] = {}
        for row in sorted(set(rows.values())):
            objects.setdefault(store.arrays.chunk_name(key, row), []).append(row)
        for name, held in objects.items():
            yield _stored(storage, name, partial(_compare, store, key, held))


def _compare(store: Store, key: str, rows: Sequence[int]) -> None:
    for row in rows:
        store.embedding_at(row, key)


def _frames(store: Store) -> Iterator[Source]:
    store.label_log.versions()  # compares every segment
    for path in filter(Path.is_file, sorted((store.path / LABELS).glob("[!.]*"))):
        yield _name(store, path), path.read_bytes
    storage = store.arrays.storage
    read = {"image": store.pixels.image, "label": store.pixels.label, "valid": store.pixels.valid}
    described: set[str] = set()
    for record in store.known_frames().values():
        for name, pixels in read.items():
            array = f"frames/{record.group}/{name}"
            yield from _described(storage, array) if array not in described else ()
            described.add(array)
            yield _stored(storage, f"{array}/c.{record.row}.0.0", partial(pixels, record.frame))
    truths = store.truths.ledger.rows()
    for view in store.views_table().to_pylist() if truths else ():
        if view["view"] in truths:
            shape = (view["height"], view["width"])
            compared = partial(store.truths.read, view["view"], shape, view["row"])
            for name in ("label", "valid"):
                chunk = view_chunk(shape, name, view["row"])
                array = chunk.rpartition("/")[0]
                yield from _described(storage, array) if array not in described else ()
                described.add(array)
                yield _stored(storage, chunk, compared)


def _described(storage: Storage, array: str) -> Iterator[Source]:
    """Yield the description of an array, and those of the groups that it lies in."""
    parts = array.split("/")
    for depth in range(len(parts) + 1):
        name = "/".join([*parts[:depth], METADATA])
        if storage.size(name) is not None:
            yield _stored(storage, name)


def _stored(storage: Storage, name: str, compared: Callable[[], object] | None = None) -> Source:
    """Return a file of the arrays; ``compared`` raises where it is not what was committed."""

    def read() -> bytes:
        if compared is not None:
            compared()
        data = storage.read(name)
        if data is None:
            raise StoreError(f"{storage.root}/{name} is not there; run `hela-store verify --repair`")
        return data

    return f"{ARRAYS}/{name}", read
