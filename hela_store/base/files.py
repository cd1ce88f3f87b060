"""Files that are either wholly there or not there at all, and digests."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hela_store.errors import StoreError

_TEMPORARY = re.compile(r"\..+\.(?:csv|json|jsonl|parquet|png|safetensors|tif|tile|toml)\.[a-z0-9_]{8}")
"""Names that :func:`write_atomic` writes under."""


@contextlib.contextmanager
def explain_os_errors(what: str) -> Iterator[None]:
    """Turn a full disk or missing permission into a StoreError that says what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"no space left while {what}; free some and run the same command again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(f"no permission to write while {what}: {error.filename or error}") from error
        raise


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, durable; StoreError where there is no space."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with explain_os_errors(f"writing {path}"):
            os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Make all files in a folder, at any depth, and their names durable."""
    for place, _, names in os.walk(folder):
        for name in names:
            fsync_path(Path(place) / name)
        fsync_path(Path(place))


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` durably: temporary file, fsync, rename, fsync of the folder.

    Raises
    ------
    StoreError
        No space left, no permission, or a symbolic link in its place.
    """
    if path.is_symlink():
        raise StoreError(f"{path} is a symbolic link, which is not written to; remove it, or choose another place")
    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        fsync_path(path.parent)


def clear_temporary(folder: Path) -> None:
    """Remove what killed processes left of :func:`write_atomic` in a folder, at any depth; the caller owns the folder.

    What cannot be removed stays: it stops no work.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    (Path(place) / name).unlink()


def same_tree(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, by name and byte for byte; False where one is none."""
    if not (one.is_dir() and other.is_dir() and not other.is_symlink()):
        return False
    names = [sorted(path.relative_to(top) for path in top.rglob("*") if path.is_file()) for top in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: str | bytes | int | float) -> str:
    """Return the sha256, as hex, over parts of unambiguous length and type."""
    return hashlib.sha256(framed(*parts)).hexdigest()


def framed(*parts: str | bytes | int | float) -> bytes:
    """Return the bytes that :func:`digest` is the sha256 of."""
    return b"".join(map(_framed, parts))


def _framed(part: str | bytes | int | float) -> bytes:
    raw = part if isinstance(part, bytes) else repr(part).encode()
    return b"%s:%d:%s" % (type(part).__name__.encode(), len(raw), raw)
