"""Nested configurations by flat names: the names that command lines, grids and the records of runs use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from hela_store.errors import RecipeError


def flatten(config: object, paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a nested configuration by flat name.

    Parameters
    ----------
    config : dataclass whose fields may be dataclasses
    paths : where each flat name lies, such as ``{"lr": "optimiser.lr"}``
    """
    found = {}
    for name, path in paths.items():
        value: Any = config
        for part in path.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


def section(values: Mapping[str, Any], paths: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the keyword arguments of one section; ``""`` is the configuration itself.

    Parameters
    ----------
    values : by flat name; names that are left out keep their defaults
    paths : as of :func:`flatten`
    name : of the section
    """
    parts = {flat: path.rpartition(".") for flat, path in paths.items()}
    return {field: values[flat] for flat, (own, _, field) in parts.items() if own == name and flat in values}


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise RecipeError for a name that is not known; the message gives the nearest known name.

    Parameters
    ----------
    what : what the names belong to, such as ``"a fine-tuning"``
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
            raise RecipeError(f"{name!r} is unknown, {what} has no such setting; {hint}")
