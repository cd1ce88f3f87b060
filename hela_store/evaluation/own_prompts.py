"""Evaluation with prompts that users bring: a table of boxes and points, or a folder of label images.

Every prompt is matched to a cell before anything is decoded, one to one and with a least overlap. Prompts that fit no
cell are not scored and are named in the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.base.aliases import LabelArray
from hela_store.base.files import digest, sha256_file
from hela_store.datasets.entries import probe_label
from hela_store.datasets.pixels import read_label
from hela_store.datasets.tool_masks import find_tool_masks
from hela_store.errors import PromptError
from hela_store.prompts.prompt import Prompt
from hela_store.prompts.table import (
    LEAST_OVERLAP,
    UserPrompt,
    label_under,
    mask_prompt,
    match_masks,
    match_prompts,
    read_prompt_table,
)
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .frames import FrameCells, context_of
from .questions import Question, ask

NAMED = 10
"""Most prompts that a line names one by one."""


@dataclass(frozen=True, kw_only=True)
class OwnPrompts:
    """Describe where prompts come from.

    Attributes
    ----------
    origin : str
        Name of the file or folder; it is in the rows.
    table : prompts by frame, of a table
    masks : label image by frame, of a folder
    unused : files of the folder that have no frame's name
    digest : str
        Of the bytes of all that was given.
    """

    origin: str
    digest: str
    table: dict[str, list[UserPrompt]]
    masks: dict[str, Path]
    unused: tuple[Path, ...] = ()

    @property
    def kinds(self) -> list[str]:
        """Prompt kinds these rows will have."""
        given = {p.prompt.kind for part in self.table.values() for p in part}
        return sorted(given | {"mask"} if self.masks else given)


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """A prompt that fits no cell.

    Attributes
    ----------
    frame : str
        Id of its frame.
    row : int or None
        Row of the table, the first below the header is 1; None of a mask.
    label : int or None
        Value in the label image; None of a row.
    """

    frame: str
    row: int | None = None
    label: int | None = None

    def __str__(self) -> str:
        """Return how a message names it."""
        return f"row {self.row}" if self.row is not None else f"{self.frame} label {self.label}"


@dataclass(frozen=True, kw_only=True)
class OwnPromptsFit:
    """Describe how the prompts that a user brought fit the cells of a split.

    Attributes
    ----------
    given : int
        Prompts for the frames that are scored: rows of a table (rows of one cell count once), or objects in masks.
    scored : int
        Those that were given to a cell.
    unmatched : list of Unmatched
        Those that fit no cell, or only one that a better prompt has.
    beside : list of int
        Rows that name a cell and do not lie on it; they are scored.
    outside : dict of str to int
        Prompts of a table, or label images, for frames that are not scored, by the split the frames are in.
    unused : list of str
        Files of the folder of masks that have no frame's name.
    swapped : int
        How many would fit with x and y exchanged; counted only where most do not fit.
    """

    given: int
    scored: int
    unmatched: list[Unmatched]
    beside: list[int]
    outside: dict[str, int]
    unused: list[str]
    swapped: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [{name: value for name, value in asdict(one).items() if value is not None} for one in self.unmatched]
        return asdict(self) | {"unmatched": rows}

    def notes(self) -> list[str]:
        """Return what a user has to know, a line each."""
        notes = []
        if self.unmatched:
            hint = f"; with x and y exchanged {self.swapped} would" if self.swapped > self.scored else ""
            notes.append(
                f"{len(self.unmatched)} of {self.given} prompts fit no cell (least IoU {LEAST_OVERLAP}, one prompt a "
                f"cell) and are not scored: {_few(map(str, self.unmatched))}{hint}"
            )
        if self.beside:
            rows = _few(map(str, self.beside))
            notes.append(f"{len(self.beside)} prompts name a cell that they do not lie on: rows {rows}")
        if self.outside:
            notes.append(f"prompts for frames that are not scored: {_counts(self.outside)}")
        if self.unused:
            notes.append(f"{len(self.unused)} files have no frame's name and are not used: {_few(self.unused)}")
        return notes


@dataclass(frozen=True, kw_only=True)
class FittedPrompts:
    """Own prompts and the cells they are given to.

    Attributes
    ----------
    own : where they come from
    prompts : of a table, by frame and cell
    labels : of label images, values by frame and cell
    fit : what fitted and what did not
    """

    own: OwnPrompts
    prompts: dict[str, dict[str, Prompt]]
    labels: dict[str, dict[str, int]]
    fit: OwnPromptsFit


def read_own_prompts(store: Store, table: Path | None, masks: Path | None) -> OwnPrompts | None:
    """Read what the user gave; None where nothing was.

    Raises
    ------
    PromptError
        Both were given, a file cannot be read, no label image fits a frame, or one fits several.
    """
    if table is not None and masks is not None:
        raise PromptError("give either a prompt table or a folder of prompt masks, not both")
    frames = store.frame_records()
    if table is not None:
        by_frame: dict[str, list[UserPrompt]] = {}
        for prompt in read_prompt_table(table, {name: frame.shape for name, frame in frames.items()}):
            by_frame.setdefault(prompt.frame, []).append(prompt)
        return OwnPrompts(origin=table.name, digest=sha256_file(table), table=by_frame, masks={})
    if masks is None:
        return None
    files = find_tool_masks(masks, {name: frame.shape for name, frame in frames.items()})
    sums = [part for name in sorted(files.files) for part in (name, sha256_file(files.files[name]))]
    return OwnPrompts(origin=masks.name, digest=digest(*sums), table={}, masks=files.files, unused=files.unused)


def fit_prompts(store: Store, own: OwnPrompts, frames: Iterable[FrameCells]) -> FittedPrompts:
    """Match own prompts to the cells of the frames that are scored.

    Raises
    ------
    PromptError
        None fits, with what may be the cause; a label image has another size than its frame, or a prompt names a cell
        that is not there.
    """
    prompts: dict[str, dict[str, Prompt]] = {}
    labels: dict[str, dict[str, int]] = {}
    unmatched: list[Unmatched] = []
    beside: list[int] = []
    swapped, looked = 0, set()
    for frame in frames:
        looked.add(frame.frame)
        if frame.frame in own.table:
            given = own.table[frame.frame]
            matched, left = match_prompts(given, _labels(frame), frame.label)
            prompts[frame.frame] = {cell: prompt.prompt for cell, prompt in matched.items()}
            unmatched += [Unmatched(frame=frame.frame, row=prompt.row) for prompt in left]
            beside += [
                prompt.row for cell, prompt in matched.items() if prompt.cell and not _lies_on(frame, cell, prompt)
            ]
            turned = [p if p.cell else replace(p, prompt=_turned(p.prompt)) for p in given]
            swapped += len(match_prompts(turned, _labels(frame), frame.label)[0]) if left else len(matched)
        elif frame.frame in own.masks:
            image = _read(own.masks[frame.frame])
            pairs = match_masks(image, frame.label)
            labels[frame.frame] = {cell.cell: pairs[cell.label] for cell in frame.cells if cell.label in pairs}
            left_over = {int(value) for value in np.unique(image)} - {0, *labels[frame.frame].values()}
            unmatched += [Unmatched(frame=frame.frame, label=label) for label in sorted(left_over)]
            square = image.shape[0] == image.shape[1]
            swapped += len(match_masks(np.ascontiguousarray(image.T), frame.label) if left_over and square else pairs)
    scored = sum(len(part) for part in prompts.values()) + sum(len(part) for part in labels.values())
    fit = OwnPromptsFit(
        given=scored + len(unmatched),
        scored=scored,
        unmatched=unmatched,
        beside=beside,
        outside=_outside(store, own, looked),
        unused=[str(path) for path in own.unused],
        swapped=swapped if len(unmatched) > scored else 0,
    )
    if not scored:
        raise PromptError(_why_none(fit))
    return FittedPrompts(own=own, prompts=prompts, labels=labels, fit=fit)


def own_questions(fitted: FittedPrompts, frame: FrameCells, radius: float) -> Sequence[Question]:
    """Ask the prompts of a frame; cells without a prompt are not asked for."""

    def asked(cell: CellRecord, prompt: Prompt) -> Question:
        return ask(frame, cell, context_of(frame, cell), prompt, radius=radius, origin=fitted.own.origin)

    by_id = {cell.cell: cell for cell in frame.cells}
    if labels := fitted.labels.get(frame.frame):
        image = _read(fitted.own.masks[frame.frame])
        return [asked(by_id[cell], mask_prompt(image, label)) for cell, label in labels.items()]
    return [asked(by_id[cell], prompt) for cell, prompt in fitted.prompts.get(frame.frame, {}).items()]


def _labels(frame: FrameCells) -> dict[str, int]:
    return {cell.cell: cell.label for cell in frame.cells}


def _read(path: Path) -> LabelArray:
    return read_label(probe_label(path)[0])


def _lies_on(frame: FrameCells, cell: str, given: UserPrompt) -> bool:
    """Return whether a prompt has a pixel of the cell that it names in its box, or under its point."""
    label = _labels(frame)[cell]
    if given.prompt.box is None:
        return label_under(given.prompt, frame.label) == label
    x0, y0, x1, y1 = np.round(given.prompt.box).astype(int)
    return bool((frame.label[y0:y1, x0:x1] == label).any())


def _turned(prompt: Prompt) -> Prompt:
    """Return a prompt with x and y exchanged."""
    box = None if prompt.box is None else prompt.box[[1, 0, 3, 2]]
    return replace(prompt, box=box, points=None if prompt.points is None else prompt.points[:, ::-1])


def _outside(store: Store, own: OwnPrompts, looked: set[str]) -> dict[str, int]:
    blocks, counts = store.blocks(), Counter[str]()
    for frame, size in ((frame, len(part)) for frame, part in own.table.items()):
        counts[blocks[frame]] += 0 if frame in looked else size
    counts.update(blocks[frame] for frame in own.masks if frame not in looked)
    return {block: count for block, count in sorted(counts.items()) if count}


def _why_none(fit: OwnPromptsFit) -> str:
    none = f"none of the given prompts fits a labelled cell of this split ({fit.given} are for its frames)"
    if not fit.given and fit.outside:
        block = max(fit.outside, key=fit.outside.__getitem__)
        split = block if block != "gap" else "all"
        return f"{none}: they are for frames of other splits ({_counts(fit.outside)}); give --split {split}"
    if fit.swapped:
        return f"{none}: with x and y exchanged {fit.swapped} would; exchange them in the file"
    return (
        f"{none}; expected a box or mask with an IoU of {LEAST_OVERLAP} or more with a cell, or a point in one, in px "
        "of the frame: x to the right, y down, both from 0"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _few(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more
