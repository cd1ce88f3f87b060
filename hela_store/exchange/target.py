"""Say where exports go: nothing is overwritten, and a folder is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hela_store.base.files import explain_os_errors, fsync_path, fsync_tree, same_tree, write_atomic
from hela_store.base.names import refuse_link
from hela_store.errors import AlreadyComplete, RunError


class Targets:
    """Files that one export writes; a file that exists and is the same byte for byte is left alone.

    So a job that was killed after some of it was in place is completed by the same command.
    """

    def __init__(self) -> None:
        self._there: list[Path] = []
        self._written: list[Path] = []

    def file(self, path: Path, data: bytes) -> None:
        """Write a file, durably.

        Raises
        ------
        RunError
            Another file is there already.
        StoreError
            No space, no permission.
        """
        refuse_link(path)
        if path.is_file() and path.read_bytes() == data:
            self._there.append(path)
            return
        _check_free(path)
        write_atomic(path, data)
        self._written.append(path)

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Lend a new folder that becomes ``path``, durably, once all is in it; of one that fails nothing stays.

        Raises
        ------
        RunError
            Another folder is there already.
        StoreError
            No space, no permission, or a symbolic link in the place of the folder.
        """
        partial = path.with_name(f".{path.name}.partial")
        refuse_link(path)
        refuse_link(partial)
        with explain_os_errors(f"writing {path}"):
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir(parents=True)
                yield partial
                if same_tree(partial, path):
                    shutil.rmtree(partial)
                    self._there.append(path)
                    return
                _check_free(path)
                fsync_tree(partial)
                partial.rename(path)
                fsync_path(path.parent)
                self._written.append(path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise

    def finish(self) -> None:
        """Raise AlreadyComplete where all of the export was there before."""
        if self._there and not self._written:
            what = ", ".join(map(str, self._there))
            raise AlreadyComplete(
                f"already complete: {what} is there already, the same in every byte; nothing is overwritten"
            )


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} is there already, and is another; nothing is overwritten, choose another --out")
