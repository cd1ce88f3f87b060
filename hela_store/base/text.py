"""Messages of other packages, as short as ours, and the order of names."""

from __future__ import annotations

import re


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has no message."""
    return str(error).partition("\n")[0].strip() or type(error).__name__


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people do: ``t2`` before ``t10``."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), part) if part.isdigit() else (-1, part) for part in parts]


def numbered(name: str) -> tuple[str, str] | None:
    """Split a name into what comes before and the digits it ends in; None where it ends in none."""
    match = re.fullmatch(r"(.*?)(\d+)", name, flags=re.DOTALL | re.ASCII)
    return None if match is None else (match[1], match[2])
