"""Say what `hela-store new` decides about stills that belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hela_store.base.progress import Progress
from hela_store.datasets.entries import Entry
from hela_store.datasets.look_groups import Looks, copies, look_groups, look_of
from hela_store.datasets.pixels import read_image
from hela_store.recipe.recipe import LOOKS, DatasetRecipe, SplitRecipe
from hela_store.recipe.splits import name_groups

LEAST_GROUPS = 10
LARGEST_GROUP = 0.3
"""With fewer groups, or one that holds a larger share of the stills, a split by look has no shares left to choose."""


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Describe how stills are grouped: ``split.group`` of the recipe, the group of each, and what to say about it."""

    by: str
    of: dict[str, str] | None
    text: str


def group_stills(
    dataset: DatasetRecipe, split: SplitRecipe, entries: Sequence[Entry], asked: str, progress: Progress
) -> Grouping:
    """Group stills as asked; with ``"auto"`` by look, or copies alone where all stills look much alike.

    Every still is read once, unless a pattern decides or ``asked`` is ``"none"``. Nothing is grouped by itself in a
    time-lapse, whose neighbours look alike by nature, nor where the split's blocks are named.
    """
    if not dataset.stills or asked == "none" or (asked == "auto" and (split.train or split.val or split.test)):
        return Grouping(by="", of=None, text="")
    names = {entry.id: entry.name for entry in entries}
    if asked not in ("auto", *LOOKS):
        of = name_groups(asked.partition(":")[2], names)
        return Grouping(by=asked, of=of, text=f"{len(of)} stills in {len(set(of.values()))} groups by their names")
    shown = progress(entries, total=len(entries), what="compare stills")
    looks = Looks.of([look_of(read_image(entry.image)) for entry in shown])
    copied = len(copies(looks))
    by = asked if asked != "auto" else _by(look_groups(looks), copied)
    found = f"{copied} of {len(names)} stills are copies of another"
    if not by:
        return Grouping(by="", of=None, text=found)
    first = look_groups(looks, "copies" if by == "copies" else "look")
    frames = list(names)
    of = {frame: frames[leader] for frame, leader in zip(frames, first, strict=True)}
    text = f"{found}; grouped by {by} into {len(set(first))}, each whole in one part of the split (--group)"
    return Grouping(by=by, of=of, text=text)


def _by(groups: Sequence[int], copied: int) -> str:
    sizes = Counter(groups)
    if len(sizes) >= LEAST_GROUPS and max(sizes.values()) <= LARGEST_GROUP * len(groups) and len(sizes) < len(groups):
        return "look"
    return "copies" if copied else ""
