"""Bytes on disk, counted and written for people."""

from __future__ import annotations

import os
from pathlib import Path


def mebibytes(size: int) -> str:
    """Write a number of bytes for people."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def folder_bytes(path: Path) -> int:
    """Return the size of a file, or of all files below a folder; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # another process renamed or removed it meanwhile
    return total
