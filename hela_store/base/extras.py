"""Optional parts of this package, and what to say where they are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hela_store.errors import ExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a failing import of a package of an extra into an error that names the extra.

    Raises
    ------
    ExtraError
        A package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "hela_store":
            raise
        raise ExtraError(f"{missing} is not installed; pip install 'hela-store[{extra}]'", name=error.name) from None
