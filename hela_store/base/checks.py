"""Checks of values that a person wrote; their messages say what was expected and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from hela_store.errors import RecipeError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` with the nearest of the known names, ``""`` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(value: str, allowed: Any, what: str) -> None:
    """Raise RecipeError unless a value is one of those of a ``Literal``."""
    names = get_args(allowed)
    if value not in names:
        raise RecipeError(f"{what} is {value!r}, expected one of {', '.join(names)}{did_you_mean(str(value), names)}")


def check_range(value: float, low: float, high: float, what: str) -> None:
    """Raise RecipeError unless a value lies between two limits, or is one of them."""
    if not low <= value <= high:
        raise RecipeError(f"{what} is {value}, expected {low} to {high}")
