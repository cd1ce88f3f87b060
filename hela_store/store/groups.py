"""Say which stills of a store belong together, as its recipe's ``split.group`` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from hela_store.datasets.entries import Entry
from hela_store.datasets.look_groups import Looks, look_groups, look_of
from hela_store.datasets.pixels import read_image
from hela_store.errors import SplitError
from hela_store.recipe.recipe import LOOKS, Recipe
from hela_store.recipe.splits import name_groups

from .records import FrameRecord


def still_groups(recipe: Recipe, names: Mapping[str, str], looks: Mapping[str, bytes | None]) -> dict[str, str] | None:
    """Return the group of each still, named by the still that came first; None where stills are not grouped.

    Parameters
    ----------
    recipe : Recipe
    names : dict of frame id to the frame's name
    looks : dict of frame id to its look, in the order in which the stills came; asked only where pixels decide

    Raises
    ------
    SplitError
        A still was ingested by a version that wrote no looks, or an expression finds nothing in any name.
    """
    group = recipe.split.group
    if not group or not recipe.dataset.stills:
        return None
    if group not in LOOKS:
        return name_groups(group.partition(":")[2], names)
    known = {frame: look for frame, look in looks.items() if look is not None}
    if without := next((frame for frame in looks if frame not in known), None):
        raise SplitError(
            f"split.group = {group!r} asks what stills look like, and {without} was ingested by an earlier version, "
            "which did not write that down; make a new store with `hela-store new`, or group by name:REGEX"
        )
    frames = list(known)
    first = look_groups(Looks.of(list(known.values())), "copies" if group == "copies" else "look")
    return {frame: frames[leader] for frame, leader in zip(frames, first, strict=True)}


def table_groups(recipe: Recipe, frames: pa.Table) -> dict[str, str] | None:
    """Return :func:`still_groups` of ingested frames, given in the order of their ingest."""
    ids, names, looks = (frames[name].to_pylist() for name in ("frame", "name", "look"))
    return still_groups(recipe, dict(zip(ids, names, strict=True)), dict(zip(ids, looks, strict=True)))


def entry_groups(
    recipe: Recipe, entries: Iterable[Entry], known: Mapping[str, FrameRecord] | None = None
) -> dict[str, str] | None:
    """Return :func:`still_groups` of frames that are not ingested yet, after those that are; reads their pixels."""
    entries, known = list(entries), known or {}
    names = {frame: record.name for frame, record in known.items()} | {entry.id: entry.name for entry in entries}
    looks: dict[str, bytes | None] = {frame: record.look for frame, record in known.items()}
    if recipe.split.group in LOOKS:
        looks |= {entry.id: look_of(read_image(entry.image)) for entry in entries}
    return still_groups(recipe, names, looks)
