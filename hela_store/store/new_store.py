"""A new store: its folder and its recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

from hela_store.base.files import explain_os_errors, fsync_path, write_atomic
from hela_store.errors import StoreError
from hela_store.recipe.recipe import RECIPE_FILE, parse_recipe

from .store import Store


def new_store(path: Path | str, recipe_text: str) -> Store:
    """Make a store: a folder with ``store.toml``; nothing is ever overwritten.

    Parameters
    ----------
    path : path
        The store's folder; made, with its parents, where it does not exist.
    recipe_text : str
        The whole of ``store.toml``; validated before anything is written.

    Raises
    ------
    StoreError
        There is a store already; no space, no permission.
    RecipeError
        The recipe is wrong.
    """
    path = Path(path)
    parse_recipe(recipe_text, str(path / RECIPE_FILE))
    if (path / RECIPE_FILE).exists():
        raise StoreError(f"{path} is a store already; choose another name, or edit its {RECIPE_FILE}")
    with explain_os_errors(f"making {path}"):
        try:
            existed = path.exists()
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{path} cannot be made: there is a file in its place; choose another name") from None
    try:
        write_atomic(path / RECIPE_FILE, recipe_text.encode())
        fsync_path(path.parent)
    except BaseException:
        if not existed:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return Store.open(path)
