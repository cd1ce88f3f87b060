"""``sums.json``: the sha256 of files that are written once and must not change afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hela_store.errors import StoreError

from .files import digest, sha256_file, write_atomic
from .text import first_line

FILE = "sums.json"
FORMAT = 1


class Sums:
    """The sums of files below a folder.

    A file gets its sum after it is durable, so that a process that is killed in between leaves one without; the next
    :meth:`add` of it makes up for that.

    Parameters
    ----------
    root : Path
        The folder; ``sums.json`` lies in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, str] = {}

    def read(self, path: Path, *, way_out: str) -> bytes:
        """Return what is in a file, compared with its sum where it has one.

        Raises
        ------
        StoreError
            It changed, is not there, or ``sums.json`` itself is damaged; ends with ``way_out``.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path} is damaged: {first_line(error)}; {way_out}") from None
        name = self._name(path)
        if name not in self._known:
            self._known = self.load()
        expected = self._known.get(name)
        if expected is not None and hashlib.sha256(data).hexdigest() != expected:
            self._known = self.load()  # it may have been written again since
            if hashlib.sha256(data).hexdigest() != self._known.get(name):
                raise StoreError(f"{path} is damaged: it changed since it was written; {way_out}")
        return data

    def load(self) -> dict[str, str]:
        """Return the sum of every file by its name below the folder; empty where ``sums.json`` is not there.

        Raises
        ------
        StoreError
            It is damaged.
        """
        path = self.root / FILE
        try:
            raw = json.loads(path.read_bytes())
            files = {str(name): str(sum_) for name, sum_ in raw["files"].items()}
            if raw["digest"] != _digest(files):
                raise ValueError("its values are not those that were written")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"{path} is damaged ({first_line(error)})"
            raise StoreError(f"{found}; restore it, or delete it and run `hela-store verify --repair`") from None
        return files

    def lost(self, folder: str) -> list[Path]:
        """Return the files of a folder that have a sum and are not there."""
        named = (self.root / name for name in self.load() if name.startswith(f"{folder}/"))
        return [path for path in named if not path.exists()]

    def add(self, paths: Iterable[Path], *, forget: str = "") -> None:
        """Write down the sums of files durably, in place of those they had.

        Parameters
        ----------
        paths : iterable of Path
            Below the root.
        forget : str
            A folder of which sums of files that are gone are dropped.
        """
        known = self.load()
        lost = {self._name(path) for path in self.lost(forget)} if forget else set()
        files = {name: sum_ for name, sum_ in known.items() if name not in lost}
        files |= {self._name(path): sha256_file(path) for path in paths}
        if files != known:
            text = json.dumps({"format": FORMAT, "files": files, "digest": _digest(files)}, indent=2) + "\n"
            write_atomic(self.root / FILE, text.encode())
        self._known = files

    def without(self, paths: Iterable[Path]) -> list[Path]:
        """Return those of the files that have no sum."""
        known = self.load()
        return [path for path in paths if self._name(path) not in known]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _digest(files: dict[str, str]) -> str:
    return digest(json.dumps(files, sort_keys=True))
