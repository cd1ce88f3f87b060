"""Names that become paths. A store may come from somebody else, so its names are data and are checked here alone.

:func:`check_name` is called where names enter (ingest, opening a store, loading a run) and :func:`inside` where a path
is made of them, so that nothing is read or written beyond the folder that was meant.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from hela_store.errors import HelaError, StoreError

from .text import visible

LONGEST = 200
"""Bytes of UTF-8; with what is added to them, names of files may have 255."""
PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_@=+,. -]{0,150}"
"""Names that need no closer look, as a regular expression that has to match all of a name."""


def check_name(name: object, what: str, error: type[HelaError] = StoreError) -> str:
    """Return a name that can be the name of one file or folder on every system.

    Parameters
    ----------
    name : object
        As it was found.
    what : str
        What it names, such as ``"the sequence"``.
    error : type
        What is raised.

    Raises
    ------
    StoreError
        Or another ``error``: it is no text, empty or too long, leads elsewhere, is hidden, or holds a character that
        cannot be seen.
    """
    if isinstance(name, str) and re.fullmatch(PLAIN, name):
        return name
    fault = _fault(name)
    if fault:
        shown = visible(repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:80]}...")
        way_out = "rename it where it comes from; it must be a plain name without / or \\ that begins with no dot"
        raise error(f"{what} {shown} cannot be the name of a file: {fault}; {way_out}")
    return str(name)


def inside(folder: Path, *names: str, what: str, suffix: str = "") -> Path:
    """Return the path of a file or folder below another, made of checked names; no link on the way is followed.

    Parameters
    ----------
    folder : Path
    *names : str
        Names of folders and, last, of the file.
    what : str
        What the names are of, such as ``"the sequence"``.
    suffix : str
        Put behind the last name.

    Raises
    ------
    StoreError
        As :func:`check_name`, or there is a symbolic link in one of these places.
    """
    path = folder
    for number, name in enumerate(names, 1):
        path = path / (check_name(name, what) + (suffix if number == len(names) else ""))
        refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Raise StoreError if there is a symbolic link in a place where only files and folders of ours may be."""
    if path.is_symlink():
        way_out = "remove the link, or put what it leads to in its place"
        raise StoreError(f"{path} is a symbolic link, which is not followed; {way_out}")


def refuse_links(folder: Path, depth: int) -> None:
    """Raise StoreError if a folder, or what lies up to ``depth`` levels below it, is a symbolic link."""
    refuse_link(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries if depth else ():
                if entry.is_symlink():
                    refuse_link(Path(entry.path))
                elif depth > 1 and entry.is_dir(follow_symlinks=False):
                    refuse_links(Path(entry.path), depth - 1)
    except (FileNotFoundError, NotADirectoryError):
        return


def _fault(name: object) -> str:
    if not isinstance(name, str):
        return "it is no text"
    if not name.strip():
        return "it is empty"
    # what looks like a slash or two dots becomes them on some systems
    seen = unicodedata.normalize("NFKC", name)
    if "/" in seen or "\\" in seen or re.match(r"[A-Za-z]:", seen):
        return "it leads to another folder"
    if seen.startswith("."):
        return "it begins with a dot"
    if visible(name) != name or "\n" in name or "\t" in name:
        return "it holds a character that cannot be shown"
    if len(name.encode()) > LONGEST:
        return f"it has {len(name.encode())} bytes, at most {LONGEST} are allowed"
    return ""
