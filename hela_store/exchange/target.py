"""Where exports go: nothing is overwritten, and a folder is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hela_store.base.files import explain_os_errors, fsync_path, fsync_tree
from hela_store.base.names import refuse_link
from hela_store.errors import RunError


def check_free(path: Path) -> None:
    """Raise RunError where a file or folder is there already, or a link, wherever it leads."""
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} is there already; nothing is overwritten, choose another --out")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Lend a new folder that becomes ``path``, durably, once all is in it; of one that fails nothing stays.

    Raises
    ------
    RunError
        ``path`` is there already.
    StoreError
        No space, no permission, or a symbolic link in the place of the temporary folder.
    """
    check_free(path)
    partial = path.with_name(f".{path.name}.partial")
    refuse_link(partial)
    with explain_os_errors(f"writing {path}"):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            fsync_tree(partial)
            partial.rename(path)
            fsync_path(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
