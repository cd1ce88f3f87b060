"""Data sets: readers that yield frames, and a look at one before a store is made of it."""

from __future__ import annotations

from pathlib import Path

from hela_store.base.progress import Progress, silent
from hela_store.errors import DatasetError
from hela_store.recipe.recipe import DatasetRecipe

from .ctc import CtcReader
from .folder import FolderReader
from .look import DatasetSummary, estimate_offset, inspect

__all__ = ["CtcReader", "DatasetSummary", "FolderReader", "estimate_offset", "inspect", "open_dataset"]


def open_dataset(config: DatasetRecipe, base: Path, progress: Progress = silent) -> CtcReader | FolderReader:
    """Return the reader a recipe asks for.

    Lists files and reads their headers, no pixels: sizes, types and missing partners are checked here, before anything
    is written.

    Parameters
    ----------
    config : DatasetRecipe
    base : Path
        The store's folder, to which a relative ``config.path`` belongs.
    progress : Progress
        Shown while the headers of many files are read.

    Returns
    -------
    reader
        A :class:`~hela_store.datasets.frame.Reader` with ``len``, ``entries`` and ``read(entry)``.

    Raises
    ------
    DatasetError
        Missing folder, no frames, damaged headers, sizes or types that do not fit, a mask without a frame.
    """
    root = Path(base, Path(config.path).expanduser())
    if not root.exists():
        raise DatasetError(f"{root}: no such folder; check --dataset, or dataset.path in store.toml")
    return CtcReader(config, root) if config.reader == "ctc" else FolderReader(config, root, progress)
