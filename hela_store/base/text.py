"""Text for people: messages of other packages, as short as ours, and characters that a terminal would obey."""

from __future__ import annotations

import re

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters but tab and line feed, marks that turn the direction of writing, and lone surrogates."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has no message."""
    return str(error).partition("\n")[0].strip() or type(error).__name__


def visible(text: str) -> str:
    r"""Return text in which characters that a terminal would obey, or that cannot be shown, are written as ``\x1b``.

    Line feeds and tabs stay.
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
