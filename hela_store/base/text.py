"""Text for people: messages of other packages, characters that a terminal would obey, and the order of names."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters but tab and line feed, marks that turn the direction of writing, and lone surrogates."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has no message."""
    return str(error).partition("\n")[0].strip() or type(error).__name__


def counted(number: int, what: str) -> str:
    """Return a number of things, such as ``1 frame`` or ``1,200 frames``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def percent(share: float, decimals: int = 1) -> str:
    """Return a share as a percentage, such as ``84.0 %``."""
    return f"{100 * share:.{decimals}f} %"


def visible(text: str) -> str:
    r"""Return text in which characters that a terminal would obey, or that cannot be shown, are written as ``\x1b``.

    Line feeds and tabs stay.
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people do: ``t2`` before ``t10``."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), part) if part.isdigit() else (-1, part) for part in parts]


def own_numbers(frames: Iterable[tuple[str, int]]) -> str:
    """Say which number the first and the last frame have, where these are not the numbers in their names.

    Parameters
    ----------
    frames : (name, number), in order
    """
    told = list(frames)
    parts = [(numbered(name), number) for name, number in told]
    if not told or all(part is None or int(part[1]) == number for part, number in parts):
        return ""
    ends = dict((told[0], told[-1]))
    return " (counted from 0: " + ", ".join(f"{name} is {number}" for name, number in ends.items()) + ")"


def numbered(name: str) -> tuple[str, str] | None:
    """Split a name into what comes before and the digits it ends in; None where it ends in none."""
    match = re.fullmatch(r"(.*?)(\d+)", name, flags=re.DOTALL | re.ASCII)
    return None if match is None else (match[1], match[2])
