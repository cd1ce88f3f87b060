"""Temporary folders that do not stay for ever where their process is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "hela-store-spill-"
_NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lend a folder in the place for temporary files; it is locked, so that nobody takes it for a leftover."""
    folder, handle = _locked()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def clear_scratch() -> None:
    """Remove the folders of processes that were killed: those that are ours and not locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not _NAME.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):  # in use, gone, or another user's
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_uid == os.getuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _locked() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):  # cleared by another process before it was locked
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: then nobody clears it either
                fcntl.flock(handle, fcntl.LOCK_SH)
            if folder.exists():
                return folder, handle
            os.close(handle)
