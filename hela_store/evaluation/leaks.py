"""No frame that is tested or validated on has trained (rule "blocks of time").

Frames are compared as they are and as a run saw them.

A recipe's split may change between a fine-tuning and its evaluation, as it does from fold to fold; so runs keep which
frames they trained and chose on. Tiles and augmented variants train only with their frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hela_store.base.text import counted
from hela_store.datasets.look_groups import Looks, copies
from hela_store.errors import RunError, SplitError
from hela_store.recipe.recipe import RECIPE_FILE
from hela_store.recipe.splits import format_ranges, parse_ranges
from hela_store.runs.folder import RunInfo, load_run
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

FrameRanges = dict[str, dict[str, str | list[str]]]
"""Frames by block and sequence: ranges of the numbers in their names, ``{"train": {"01": "0-54"}}``.

Stills have no number of their own and are kept by name: ``{"train": {"images": ["cell_a", "cell_b"]}}``. Older runs
kept their running numbers.
"""


def block_ranges(store: Store, blocks: Iterable[str] = ("train", "val")) -> FrameRanges:
    """Return the frames of blocks as the recipe has them now."""
    of_frame, stills = store.blocks(), store.recipe.dataset.stills
    found: dict[str, dict[str, list[FrameRecord]]] = {name: defaultdict(list) for name in blocks}
    for record in store.frame_records().values():
        if (block := of_frame[record.frame]) in found:
            found[block][record.sequence].append(record)
    return {
        name: {
            sequence: sorted(r.name for r in records) if stills else format_ranges(r.time for r in records)
            for sequence, records in part.items()
        }
        for name, part in found.items()
    }


def _kept(frames: str | list[str], records: Iterable[FrameRecord]) -> set[str]:
    """Return the ids of those frames of a sequence that a run kept."""
    if isinstance(frames, list):
        names = set(frames)
        return {record.frame for record in records if record.name in names}
    ranges = parse_ranges(frames)
    return {record.frame for record in records if any(first <= record.time <= last for first, last in ranges)}


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Copies of one image among the stills of a store.

    Attributes
    ----------
    pairs : (earlier, later) frame ids, where the later still is a copy of the earlier one
    across : those of them that lie in different blocks of the split, gaps left out
    unknown : stills that an earlier version ingested, among which no copies were looked for
    """

    pairs: list[tuple[str, str]]
    across: list[tuple[str, str]]
    unknown: int

    def __str__(self) -> str:
        apart = f"{len(self.across)} of them in another part of the split than the image they resemble"
        text = f"{counted(len(self.pairs), 'image')} resembling an earlier one" + (f", {apart}" if self.pairs else "")
        return text + (f"; {self.unknown} not looked at: an earlier version ingested them" if self.unknown else "")


def find_copies(store: Store) -> Copies | None:
    """Return the near-copies among a store's stills, turned and mirrored ones included; None for a time-lapse."""
    if not store.recipe.dataset.stills:
        return None
    records, blocks = list(store.frame_records().values()), store.blocks()
    seen = [record for record in records if record.look is not None and not record.is_blank]
    found = copies(Looks.of([record.look for record in seen if record.look is not None]))
    pairs = [(seen[earlier].frame, seen[later].frame) for earlier, later in found]
    across = [pair for pair in pairs if len({blocks[frame] for frame in pair}) == 2 and not _unused(pair, blocks)]
    return Copies(pairs=pairs, across=across, unknown=sum(record.look is None for record in records))


def _unused(frames: Iterable[str], blocks: Mapping[str, str]) -> bool:
    return any(blocks[frame] == "gap" for frame in frames)


def check_twins(store: Store) -> None:
    """Refuse a split in which an image is in two blocks.

    Of stills whose split nobody chose that also means copies that are not equal pixel by pixel. Where the recipe names
    the blocks or groups the stills, :func:`find_copies` counts those and nothing is refused.

    Raises
    ------
    SplitError
        A frame has the very pixels of one in another block, or a still is a copy of one there.
    """
    of_frame = store.blocks()
    owners: dict[str, tuple[str, str]] = {}
    for row in store.frame_records().values():
        frame, block = row.frame, of_frame[row.frame]
        if block == "gap" or row.is_blank:
            continue
        twin, other = owners.setdefault(row.sha256, (frame, block))
        if other != block:
            raise SplitError(
                f"{frame} ({block}) is the same image as {twin} ({other}); put both into the same part of the split"
            )
    split = store.recipe.split
    if split.group or split.mode != "frames" or split.train or split.val or split.test:
        return
    found = find_copies(store)
    if found is not None and found.across:
        earlier, later = found.across[0]
        raise SplitError(
            f"{later} ({of_frame[later]}) is a copy of {earlier} ({of_frame[earlier]}), and so are {len(found.across)} "
            f'stills of one in another block; write group = "look" under [split] in {store.path / RECIPE_FILE}, which '
            "splits anew so that stills of like look stay together"
        )


def check_untouched(store: Store, run: RunInfo | None, frames: Sequence[str], split: str = "test") -> None:
    """Refuse to score a run, those it began from, and one that adapted the encoder, on frames they learned from.

    Parameters
    ----------
    run : a fine-tuning; None for zero-shot. Runs of before these ranges were kept are not checked.
    frames : ids of the frames that are to be scored
    split : ``"test"``: neither trained nor chosen on; ``"val"``: not trained on; others are not checked

    Raises
    ------
    RunError
        Some of them were used.
    """
    used_for = {"test": ("train", "val"), "val": ("train",)}.get(split, ())
    if not used_for:
        return
    for user, block, used in used_frames(store, run, frames):
        if block in used_for:
            verb = "trained" if block == "train" else "was chosen"
            few = f"{len(used)} of the {len(frames)} frames to score, such as {min(used)}"
            raise RunError(f"run {user} {verb} on {few}: the split has changed since; tune again on this one")


def used_frames(store: Store, run: RunInfo | None, frames: Sequence[str]) -> Iterator[tuple[str, str, set[str]]]:
    """Yield which of some frames a run, those it began from, and one that adapted the encoder, learned from.

    Parameters
    ----------
    store, run, frames : as for :func:`check_untouched`

    Yields
    ------
    run : str
        Id of the run that used them.
    block : str
        ``"train"`` where it trained on them, ``"val"`` where it was chosen on them.
    used : set of str
        Ids of frames, at least one.
    """
    adapter = store.recipe.encoder.adapter
    left = [part for part in (run, load_run(store.path, adapter, "finetune") if adapter else None) if part is not None]
    wanted: dict[str, list[FrameRecord]] = defaultdict(list)
    for record in map(store.frame_records().__getitem__, frames):
        wanted[record.sequence].append(record)
    while left:
        user = left.pop()
        for block in ("train", "val"):
            kept = user.config.get("frames", {}).get(block, {})
            if used := {frame for name, part in kept.items() for frame in _kept(part, wanted[name])}:
                yield user.id, block, used
        left += [] if user.parent is None else [load_run(store.path, user.parent, "finetune")]
