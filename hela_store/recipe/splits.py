"""Say which frames train, validate and test: blocks in time with unused gaps, as neighbours show the same cells."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from hela_store.base.checks import did_you_mean
from hela_store.base.files import digest
from hela_store.base.text import own_numbers
from hela_store.errors import SplitError

Block = Literal["train", "val", "test", "gap"]
FrameKey = tuple[str, str, int]
"""Frame id, sequence, time."""

BLOCKS: tuple[Literal["train"], Literal["val"], Literal["test"]] = ("train", "val", "test")
SPLITS = (*BLOCKS, "all")
"""Choices of frames; ``"all"``: every frame."""
# shares of validation and test frames; rule "blocks of time" cuts 92 frames into 55 + 9 + 22 and two gaps of 3
VAL_SHARE, TEST_SHARE = 0.1, 0.24
GAP = 3
LONG_ENOUGH = 30


class SplitLike(Protocol):
    """Settings of a split; ``recipe.SplitRecipe`` is one (that module lies above this one)."""

    @property
    def mode(self) -> str:
        """``"frames"``, ``"sequence"`` or ``"folds"``."""
        ...

    @property
    def train(self) -> str:
        """Ranges of frame numbers, or names of sequences."""
        ...

    @property
    def val(self) -> str:
        """Ranges of frame numbers; empty in mode ``"sequence"``."""
        ...

    @property
    def test(self) -> str:
        """Ranges of frame numbers, or names of sequences."""
        ...

    @property
    def val_share(self) -> float:
        """Share of a sequence's frames that validate, modes ``"sequence"`` and ``"folds"``."""
        ...

    @property
    def gap(self) -> int:
        """Unused frames between blocks, the same modes."""
        ...

    @property
    def folds(self) -> int:
        """Number of blocks each sequence is cut into, mode ``"folds"``."""
        ...

    @property
    def fold(self) -> int:
        """Number of the fold that is the test block, from 0."""
        ...


def parse_ranges(text: str, what: str = "range") -> list[tuple[int, int]]:
    """Read inclusive ranges: ``"0-10,20-30,35"`` gives ``[(0, 10), (20, 30), (35, 35)]``; empty text gives none.

    Raises
    ------
    SplitError
        A part is not a number or two, or runs backwards.
    """
    ranges = []
    for part in text.split(",") if text.strip() else []:
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, flags=re.ASCII)
        if match is None:
            raise SplitError(f"{what} is {text!r}: {part.strip()!r} is no range of frames; write '0-54' or '0-10,20'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SplitError(f"{what} is {text!r}: {part.strip()} runs backwards; write {last}-{first}")
        ranges.append((first, last))
    return ranges


def format_ranges(numbers: Iterable[int]) -> str:
    """Write numbers as inclusive ranges, the inverse of :func:`parse_ranges`: ``"0-10,20"``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def assign(
    split: SplitLike, frames: Sequence[FrameKey], stills: bool = False, groups: Mapping[str, str] | None = None
) -> dict[str, Block]:
    """Say for every frame which block it belongs to.

    Parameters
    ----------
    split : SplitRecipe
        With neither train, val nor test, :func:`default_split` decides, except in mode ``"folds"``.
    frames : sequence of (frame id, sequence, time)
    stills : bool
        The frames are no time-lapse; only the default split asks.
    groups : dict of frame id to group, optional
        Of stills: a group goes whole into one block of the default split; a frame that is not there is its own.

    Returns
    -------
    dict of frame id to ``"train"``, ``"val"``, ``"test"`` or ``"gap"``
        Frames in no block are ``"gap"``.

    Raises
    ------
    SplitError
        A malformed range, overlapping blocks, a block that is asked for and holds no frame, or an unknown sequence.
    """
    if split.mode == "folds":
        return _by_folds(split, frames)
    if not (split.train or split.val or split.test):
        return default_split(frames, stills, groups)
    blocks = _by_sequence(split, frames) if split.mode == "sequence" else _by_frames(split, frames)
    held = Counter(blocks.values())
    for name in BLOCKS:
        asked = getattr(split, name)
        if asked and not held[name]:
            raise SplitError(f"split.{name} = {asked!r} holds no frame; found {_describe(frames)}")
    return blocks


def _describe(frames: Sequence[FrameKey]) -> str:
    times: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for frame, sequence, time in frames:
        times[sequence].append((time, frame))
    parts = []
    for sequence, found in sorted(times.items()):
        found.sort()
        own = own_numbers((frame, time) for time, frame in found)
        parts.append(f"{sequence} with {found[0][0]}-{found[-1][0]}{own}")
    return ("sequence " + ", ".join(parts[:4]) + (", ..." if len(parts) > 4 else "")) if parts else "no frames at all"


def _by_frames(split: SplitLike, frames: Sequence[FrameKey]) -> dict[str, Block]:
    owners: list[tuple[int, int, Block]] = []
    for name in BLOCKS:
        owners += [(first, last, name) for first, last in parse_ranges(getattr(split, name), f"split.{name}")]
    owners.sort(key=lambda owner: owner[:2])
    for (_, last, one), (first, end, other) in itertools.pairwise(owners):
        if first <= last:
            raise SplitError(
                f"split.{one} and split.{other} overlap at frames {first}-{min(last, end)}; a frame is in one part"
            )
    return {
        frame: next((name for first, last, name in owners if first <= time <= last), "gap") for frame, _, time in frames
    }


def _by_sequence(split: SplitLike, frames: Sequence[FrameKey]) -> dict[str, Block]:
    if split.val:
        raise SplitError(
            f"split.val is {split.val!r} in mode 'sequence', where validation is cut from the end of training "
            "sequences; leave it empty and set split.val_share"
        )
    times: dict[str, list[int]] = defaultdict(list)
    for _, sequence, time in frames:
        times[sequence].append(time)
    train = _sequences(split.train, times, "split.train")
    test = _sequences(split.test, times, "split.test")
    if both := sorted(train & test):
        raise SplitError(f"split.train and split.test overlap: both name sequence {', '.join(both)}")
    starts = {sequence: _validation_start(sorted(times[sequence]), split, sequence) for sequence in train}
    blocks: dict[str, Block] = {}
    for frame, sequence, time in frames:
        if sequence in train:
            start = starts[sequence]
            blocks[frame] = "val" if time >= start else "gap" if time >= start - split.gap else "train"
        else:
            blocks[frame] = "test" if sequence in test else "gap"
    return blocks


def _sequences(text: str, known: Mapping[str, list[int]], what: str) -> set[str]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name not in known:
            hint = did_you_mean(name, known)
            raise SplitError(f"{what} names sequence {name!r}, found {', '.join(sorted(known)) or 'none'}{hint}")
    return names


def _validation_start(times: Sequence[int], split: SplitLike, sequence: str) -> int:
    """Return the first time of the validation block, one after the last frame if there is none."""
    if split.val_share == 0:
        return times[-1] + 1 + split.gap
    start = times[-max(1, round(split.val_share * len(times)))]
    if times[0] >= start - split.gap:
        raise SplitError(
            f"sequence {sequence} has {len(times)} frames: a validation share of {split.val_share} after a gap of "
            f"{split.gap} leaves none to train on; lower split.gap or split.val_share"
        )
    return start


def _by_folds(split: SplitLike, frames: Sequence[FrameKey]) -> dict[str, Block]:
    for name in BLOCKS:
        if text := getattr(split, name):
            raise SplitError(f"split.{name} is {text!r} in mode 'folds', where split.fold decides; leave it empty")
    times: dict[str, list[int]] = defaultdict(list)
    for _, sequence, time in frames:
        times[sequence].append(time)
    blocks = {sequence: _fold_blocks(sorted(found), split, sequence) for sequence, found in times.items()}
    return {frame: blocks[sequence][time] for frame, sequence, time in frames}


def _fold_blocks(times: Sequence[int], split: SplitLike, sequence: str) -> dict[int, Block]:
    """Cut one sequence: the fold tests, the frames after it (or the sequence's first) validate, gaps around both."""
    first, last = (len(times) * number // split.folds for number in (split.fold, split.fold + 1))
    test, before, after = times[first:last], times[:first], [t for t in times[last:] if t > times[last - 1] + split.gap]
    count = max(1, round(split.val_share * len(times))) if split.val_share else 0
    val = after[:count] if len(after) >= count else before[:count]
    held = {*test, *val}
    near = {time + step for time in held for step in range(-split.gap, split.gap + 1)}
    blocks: dict[int, Block] = {
        time: "test" if time in test else "val" if time in val else "gap" if time in near else "train" for time in times
    }
    apart = not val or not test or min(abs(v - t) for v in val for t in test) > split.gap
    if not test or len(val) < count or not apart or "train" not in blocks.values():
        raise SplitError(
            f"sequence {sequence} has {len(times)} frames: {split.folds} folds with a validation share of "
            f"{split.val_share} and gaps of {split.gap} leave none to train, validate or test on in fold {split.fold}; "
            "lower split.folds, split.gap or split.val_share"
        )
    return blocks


def default_split(
    frames: Sequence[FrameKey], stills: bool = False, groups: Mapping[str, str] | None = None
) -> dict[str, Block]:
    """Split where nothing was said.

    Time-lapse: in each sequence blocks in time order, about 60 % train, 10 % val, 24 % test, and between them gaps of
    3 frames (1 frame below 30 frames, none below 10). Stills: by a hash of the frame id, or of its group, 60/15/25 %.
    Fewer than three frames cannot be split in three: one frame is test, two are train and test.
    """
    if stills:
        of_frame = {frame: (groups or {}).get(frame, frame) for frame, _, _ in frames}
        placed = _split_stills(list(dict.fromkeys(of_frame.values())))
        return {frame: placed[group] for frame, group in of_frame.items()}
    sequences: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for frame, sequence, time in frames:
        sequences[sequence].append((time, frame))
    blocks: dict[str, Block] = {}
    for members in sequences.values():
        members.sort()
        blocks.update(zip((frame for _, frame in members), _blocks_in_time(len(members)), strict=True))
    return {frame: blocks[frame] for frame, _, _ in frames}


def _blocks_in_time(count: int) -> list[Block]:
    if count < 3:
        few: tuple[list[Block], ...] = ([], ["test"], ["train", "test"])
        return few[count]
    gap = GAP if count >= LONG_ENOUGH else 1 if count >= LONG_ENOUGH // 3 else 0
    val, test = max(1, round(VAL_SHARE * count)), max(1, round(TEST_SHARE * count))
    lengths: list[tuple[Block, int]] = [("train", count - val - test - 2 * gap), ("gap", gap), ("val", val)]
    return _repeat([*lengths, ("gap", gap), ("test", test)])


def _repeat(lengths: Sequence[tuple[Block, int]]) -> list[Block]:
    return [block for block, length in lengths for _ in range(length)]


def _split_stills(frames: Sequence[str]) -> dict[str, Block]:
    # keyed by the frame alone, so that a frame added later moves no other one
    position = {frame: int(digest("split", frame)[:12], 16) / 16**12 for frame in frames}
    blocks: dict[str, Block] = {
        frame: "train" if place < 0.6 else "val" if place < 0.75 else "test" for frame, place in position.items()
    }
    if set(blocks.values()) == set(BLOCKS) or len(frames) == 0:
        return blocks
    ranked = sorted(frames, key=position.__getitem__)
    return dict(zip(ranked, _ranked_blocks(len(ranked)), strict=True))


def _ranked_blocks(count: int) -> list[Block]:
    if count < 3:
        return _blocks_in_time(count)
    val, test = max(1, round(0.15 * count)), max(1, round(0.25 * count))
    return _repeat([("train", count - val - test), ("val", val), ("test", test)])


SAME_NUCLEI = "the same nuclei, later"
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test", "gap": "unused"}
"""What the frames of a part of the split are called."""


def protocol(blocks: Mapping[str, Block], sequences: Mapping[str, str], scored: Block = "test") -> str:
    """Say what a score on a block means: on other sequences than trained, or on later frames of the same.

    Parameters
    ----------
    blocks : dict of frame id to block
    sequences : dict of frame id to sequence
    scored : block that is scored

    Returns
    -------
    str
        ``"train 01, test 02"``, or :data:`SAME_NUCLEI`; empty where nothing is trained on or scored.
    """
    train = {sequences[frame] for frame, block in blocks.items() if block == "train"}
    test = {sequences[frame] for frame, block in blocks.items() if block == scored}
    if not (train and test):
        return ""
    text = f"train {', '.join(sorted(train))}, {scored} {', '.join(sorted(test))}"
    if both := train & test:
        return SAME_NUCLEI if both == test else f"{text}; of {', '.join(sorted(both))} {SAME_NUCLEI}"
    return text


def name_groups(pattern: str, names: Mapping[str, str]) -> dict[str, str]:
    """Group stills by what a regular expression finds in their names; those in which it finds nothing are alone.

    Parameters
    ----------
    pattern : str
        Its first bracketed part counts, or all it finds where it has none.
    names : dict of frame id to the frame's name

    Raises
    ------
    SplitError
        It finds nothing in any name.
    """
    found = {frame: re.search(pattern, name) for frame, name in names.items()}
    groups = {frame: match[1 if match.re.groups else 0] or "" for frame, match in found.items() if match is not None}
    if names and not any(groups.values()):
        few = ", ".join(list(names.values())[:3])
        raise SplitError(f"split.group = 'name:{pattern}' finds nothing in the names of the stills, such as {few}")
    return {frame: groups.get(frame) or frame for frame in names}


def frame_counts(counts: Mapping[str, int]) -> str:
    """Return how many frames each part of the split has, in words, such as ``"train 6, val 1, test 3; 2 unused"``."""
    parts = ", ".join(f"{name} {counts.get(name, 0)}" for name in BLOCKS)
    return parts + (f"; {counts['gap']} unused" if counts.get("gap") else "")


def members(blocks: Mapping[str, Block], name: str) -> list[str]:
    """Return the frame ids of a block, ``"train"``, ``"val"``, ``"test"`` or ``"all"`` (gaps too), in their order.

    Raises
    ------
    SplitError
        There is no such block, or it is empty.
    """
    if name not in (*BLOCKS, "all"):
        raise SplitError(f"split {name!r} is unknown, expected train, val, test or all")
    found = [frame for frame, block in blocks.items() if name == "all" or block == name]
    if not found:
        held = Counter(blocks.values())
        counts = ", ".join(f"{block} {held[block]}" for block in (*BLOCKS, "gap"))
        raise SplitError(f"split {name!r} holds no frame (frames: {counts}); name its frames in [split] of store.toml")
    return found
