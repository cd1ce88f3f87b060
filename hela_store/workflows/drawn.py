"""The synthetic sequences that a new store is made with where no data set is given."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hela_store.base.files import explain_os_errors, same_tree
from hela_store.base.progress import Progress
from hela_store.errors import StoreError

from .new_config import SyntheticConfig

SYNTHETIC_PIXEL_UM = 0.645
DATA_FOLDER = "data"


@contextmanager
def drawn(
    path: Path, names: Sequence[str], what: SyntheticConfig, pixel_size_um: float | None, progress: Progress
) -> Iterator[None]:
    """Draw sequences into a store's folder; take them away again where the store cannot be made."""
    root, existed, made = path / DATA_FOLDER, path.exists(), list[Path]()
    if existed and not path.is_dir():
        raise StoreError(f"{path} cannot be made: there is a file in its place; choose another name")
    try:
        with explain_os_errors(f"drawing frames into {root}"):
            for name in progress(names, total=len(names), what="draw sequences"):
                made += _draw(root, name, what, pixel_size_um)
        yield
    except BaseException:
        for folder in made if existed else [path]:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def is_drawn(root: Path, names: Sequence[str], what: SyntheticConfig, pixel_size_um: float | None) -> bool:
    """Return whether a folder holds just what would be drawn."""
    if not root.is_dir():
        return False
    with TemporaryDirectory() as folder:
        for name in names:
            _draw(Path(folder), name, what, pixel_size_um)
        return same_tree(Path(folder), root)


def _draw(root: Path, name: str, what: SyntheticConfig, pixel_size_um: float | None) -> list[Path]:
    from hela_store.datasets.synthetic import write_sequence

    write_sequence(
        root,
        sequence=name,
        frames=what.frames,
        shape=what.shape,
        cells=what.cells,
        seed=what.seed,
        pixel_size_um=pixel_size_um or SYNTHETIC_PIXEL_UM,
    )
    return [root / name, root / f"{name}_ST"]
