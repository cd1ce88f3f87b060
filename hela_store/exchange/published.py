"""The form of a published store: objects named by their sha256, a manifest of all files, and a head written last.

``objects/<2 hex>/<sha256>`` holds the bytes of files; ``manifest-<16 hex>.parquet`` says which file has which; and
``hela-store-published.json`` says which manifest counts. So a publication that was interrupted or is going on changes
nothing for those who read, and one that goes on finds every object that is there already.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hela_store.base.files import digest
from hela_store.base.names import check_name
from hela_store.base.text import first_line
from hela_store.errors import StoreError
from hela_store.store.storage import Folder, Storage

HEAD = "hela-store-published.json"
FORMAT = 1
SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
TOPS = ("arrays.zarr", "encoders", "ingest", "labels", "ledger", "plan", "runs", "truths")
"""Folders of a store that files may be published from."""
FILES = ("store.toml", "sums.json")


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """Describe one file of a published store.

    Attributes
    ----------
    path : str
        Its path in the store's folder, parts joined by ``/``.
    bytes : int
    sha256 : str
    """

    path: str
    bytes: int
    sha256: str

    @property
    def object(self) -> str:
        """Name of the object that holds its bytes."""
        return object_name(self.sha256)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Describe what is read first of a published store.

    Attributes
    ----------
    name : str
        Of the store.
    manifest, sha256 : str
        Name of the manifest, and the sha256 of its bytes.
    files, bytes : int
        How many files it lists, and their size in all.
    """

    name: str
    manifest: str
    sha256: str
    files: int
    bytes: int


def head_bytes(head: Head) -> bytes:
    """Return what :data:`HEAD` holds."""
    values = {"format": FORMAT} | asdict(head)
    return (json.dumps(values | {"digest": _digest(values)}, indent=2) + "\n").encode()


def object_name(sha256: str) -> str:
    """Return the name of the object with these bytes."""
    return f"objects/{sha256[:2]}/{sha256}"


def manifest_bytes(files: list[PublishedFile]) -> bytes:
    """Return the manifest of files, sorted by path, as Parquet."""
    rows = [asdict(file) for file in sorted(files, key=lambda file: file.path)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def read_published(place: Storage) -> tuple[Head, list[PublishedFile]]:
    """Return the head and the files of a published store.

    Raises
    ------
    StoreError
        Nothing is published there, or it is damaged, of a newer version, or names a file that a store does not have.
    """
    head = _read_head(place)
    data = place.read(head.manifest)
    if data is None or hashlib.sha256(data).hexdigest() != head.sha256:
        what = "is missing" if data is None else "is not the one that was published"
        raise StoreError(f"{place.root}/{head.manifest} {what}; publish the store again")
    table = pq.read_table(io.BytesIO(data), schema=SCHEMA)
    files = [PublishedFile(**row) for row in table.to_pylist()]
    for file in files:
        _check_file(file, place)
    if len({file.path for file in files}) < len(files):
        raise StoreError(f"{place.root}/{head.manifest} lists a file twice; publish the store again")
    return head, files


def _read_head(place: Storage) -> Head:
    data = place.read(HEAD)
    if data is None:
        raise StoreError(
            f"no store is published at {place.root}, or its publication was interrupted; run `hela-store publish` there"
        )
    try:
        values: dict[str, Any] = json.loads(data)
        found = values.pop("digest", None)
        if values.get("format", 0) > FORMAT:
            raise StoreError(f"{place.root} has format {values['format']}, expected {FORMAT}; upgrade hela-store")
        if found != _digest(values) or values.pop("format") != FORMAT:
            raise ValueError("its values are not those that were written")
        head = Head(**values)
        check_name(head.manifest, "the manifest")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{place.root}/{HEAD} is damaged ({first_line(error)}); publish the store again") from None
    return head


def _check_file(file: PublishedFile, place: Storage) -> None:
    parts = PurePosixPath(file.path).parts
    where = "a file of the published store"
    plain = "/".join(check_name(part, where) for part in parts) == file.path
    known = file.path in FILES or (len(parts) > 1 and parts[0] in TOPS)
    hexadecimal = len(file.sha256) == 64 and not set(file.sha256) - set("0123456789abcdef")
    if not (plain and known and hexadecimal and file.bytes >= 0):
        raise StoreError(f"{place.root} lists {file.path!r}, which is no file of a store; do not use this publication")


def open_place(where: str) -> Storage:
    """Return the folder or the bucket, ``"s3://bucket/prefix"``, that a store is published in.

    Raises
    ------
    BucketError, ExtraError
        No credentials, or what object storage needs is not installed.
    """
    if not where.startswith("s3://"):
        return Folder(Path(where).absolute())
    from hela_store.store.bucket import Bucket
    from hela_store.store.read_cache import ReadCache

    # no arrays are written below it, so nothing claims it, and nothing that is read is kept
    return Bucket(where.rstrip("/"), Path("data.json"), ReadCache(Path("cache"), 0))


def _digest(values: dict[str, Any]) -> str:
    return digest(json.dumps(values, sort_keys=True))
