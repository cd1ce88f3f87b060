"""Cut the labelled frames of a store into blocks of time, each with a store in which only the other blocks train."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hela_store.embedding.reader import embed_command
from hela_store.errors import SplitError, StoreError
from hela_store.evaluation.frames import frame_tiles, need_labels
from hela_store.recipe.recipe import SplitRecipe
from hela_store.recipe.splits import GAP, format_ranges
from hela_store.store.store import Store


@dataclass(frozen=True, kw_only=True)
class JudgedBlock:
    """Frames that are judged together, and the store whose training block is all the others.

    Attributes
    ----------
    number : from 0
    frames : ids, in the order of sequences and time
    store : the same store with another split: neither these frames nor their neighbours in time train
    """

    number: int
    frames: list[str]
    store: Store


def audited_frames(store: Store) -> list[str]:
    """Return the labelled frames whose views are all embedded, in the order of sequences and time.

    Raises
    ------
    SplitError
        No frame has labels.
    StoreError
        No labelled frame is embedded.
    """
    records = store.frame_records()
    labelled = sorted(
        (name for name, record in records.items() if record.has_label),
        key=lambda name: (records[name].sequence, records[name].time),
    )
    need_labels(store)
    embedded = frame_tiles(store, labelled)
    if not embedded:
        raise StoreError(
            f"none of the {len(labelled)} labelled frames of {store.path} is embedded; run `{embed_command(store)}`"
        )
    return [name for name in labelled if name in embedded]


def judged_blocks(store: Store, frames: list[str], folds: int) -> list[JudgedBlock]:
    """Cut frames by their numbers, the same cuts in every sequence.

    Between a block and the frames that train for it lie up to three unused frames in a time-lapse; fewer where little
    would be left to train on.

    Raises
    ------
    SplitError
        All frames have one number, so that none is left to train on.
    """
    records = store.frame_records()
    times = sorted({records[name].time for name in frames})
    if len(times) < 2:
        raise SplitError(
            f"{store.path} has one labelled and embedded frame; an audit needs two or more, because what judges a "
            "label must not have learned from it"
        )
    parts = np.array_split(times, min(folds, len(times)))
    return [_block(store, frames, number, [int(t) for t in part]) for number, part in enumerate(parts)]


def _block(store: Store, frames: list[str], number: int, block: list[int]) -> JudgedBlock:
    records = store.frame_records()
    others = [t for t in sorted({records[name].time for name in frames}) if t not in set(block)]
    gaps = [0] if store.recipe.dataset.stills else range(GAP, -1, -1)
    train = next(
        kept for gap in gaps if (kept := [t for t in others if _apart(t, block, gap)]) and _enough(kept, others)
    )
    split = SplitRecipe(train=format_ranges(train), test=format_ranges(block), group=store.recipe.split.group)
    apart = Store(store.path, replace(store.recipe, split=split), store.labels_version)
    judged = [name for name in frames if records[name].time in set(block)]
    return JudgedBlock(number=number, frames=judged, store=apart)


def _apart(time: int, block: list[int], gap: int) -> bool:
    return all(abs(time - other) > gap for other in (block[0], block[-1])) and not block[0] <= time <= block[-1]


def _enough(kept: list[int], others: list[int]) -> bool:
    return 2 * len(kept) >= len(others)
