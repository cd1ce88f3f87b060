"""Messages of other packages, as short as ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its type if it has no message."""
    return str(error).partition("\n")[0].strip() or type(error).__name__
