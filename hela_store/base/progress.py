"""Say how long work reports where it is: the library calls, the command line draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps an iterable of known length and shows how far it is."""

    def __call__(self, iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        """Yield the items of ``iterable``; ``what`` is a short description such as ``"embed"``."""
        ...


def silent(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Show nothing."""
    return iter(iterable)
