"""No frame that is tested or validated on has trained (rule "blocks of time").

Frames are compared as they are and as a run saw them.

A recipe's split may change between a fine-tuning and its evaluation, as it does from fold to fold; so runs keep which
frames they trained and chose on. Tiles and augmented variants train only with their frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hela_store.errors import RunError, SplitError
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


def check_twins(store: Store) -> None:
    """Raise SplitError where a frame of the test block has the very pixels of one that trains or validates."""
    of_frame = store.blocks()
    owners: dict[str, tuple[str, str]] = {}
    for row in store.frame_records().values():
        frame, block = row.frame, of_frame[row.frame]
        if block == "gap" or row.is_blank:
            continue
        kind = "test" if block == "test" else "train"
        twin, other = owners.setdefault(row.sha256, (frame, kind))
        if other != kind:
            raise SplitError(f"{frame} ({block}) is the same image as {twin} ({other}); put both into one block")


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
    adapter = store.recipe.encoder.adapter
    left = [part for part in (run, load_run(store.path, adapter, "finetune") if adapter else None) if part is not None]
    if not (used_for and left):
        return
    wanted: dict[str, list[FrameRecord]] = defaultdict(list)
    for record in map(store.frame_records().__getitem__, frames):
        wanted[record.sequence].append(record)
    while left:
        run = left.pop()
        for block in used_for:
            kept = run.config.get("frames", {}).get(block, {})
            used = {frame for name, part in kept.items() for frame in _kept(part, wanted[name])}
            if used:
                verb = "trained" if block == "train" else "was chosen"
                few = f"{len(used)} of the {len(frames)} frames to score, such as {min(used)}"
                raise RunError(f"run {run.id} {verb} on {few}: the split has changed since; tune again on this one")
        left += [] if run.parent is None else [load_run(store.path, run.parent, "finetune")]
