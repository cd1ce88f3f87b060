"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any


def number_or_text(value: Any) -> int | float | str:
    """Return a decimal number as a number, and everything else as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def plain(value: Any, other: Callable[[Any], Any] = number_or_text) -> Any:
    """Return what JSON can hold: NaN and infinities become null, because JSON has neither.

    Parameters
    ----------
    value : object
        Tables and lists may be nested; keys become text.
    other : callable
        Turns a value that JSON does not know into one that it does, or raises an error.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, other) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, other) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return plain(other(value), other)
