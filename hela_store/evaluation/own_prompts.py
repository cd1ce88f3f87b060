"""Evaluation with prompts that users bring: a table of boxes and points, or a folder of label images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hela_store.datasets.entries import probe_label
from hela_store.datasets.listing import images_by_name, same_name
from hela_store.datasets.pixels import read_label
from hela_store.errors import PromptError
from hela_store.prompts.prompt import Prompt
from hela_store.prompts.table import UserPrompt, mask_prompt, match_masks, match_prompts, read_prompt_table
from hela_store.store.records import CellRecord
from hela_store.store.store import Store

from .frames import FrameCells, context_of
from .questions import Question, ask


@dataclass(frozen=True, kw_only=True)
class OwnPrompts:
    """Where prompts come from.

    Attributes
    ----------
    origin : str
        Name of the file or folder; it is in the rows.
    table : prompts by frame, of a table
    masks : label image by frame, of a folder
    """

    origin: str
    table: dict[str, list[UserPrompt]]
    masks: dict[str, Path]

    @property
    def kinds(self) -> list[str]:
        """Prompt kinds these rows will have."""
        given = {p.prompt.kind for part in self.table.values() for p in part}
        return sorted(given | {"mask"} if self.masks else given)


def read_own_prompts(store: Store, table: Path | None, masks: Path | None) -> OwnPrompts | None:
    """Read what the user gave; None where nothing was.

    Raises
    ------
    PromptError
        Both were given, a file cannot be read, or no label image fits a frame.
    """
    if table is not None and masks is not None:
        raise PromptError("give either a prompt table or a folder of prompt masks, not both")
    frames = store.frame_records()
    if table is not None:
        by_frame: dict[str, list[UserPrompt]] = {}
        for prompt in read_prompt_table(table, {name: frame.shape for name, frame in frames.items()}):
            by_frame.setdefault(prompt.frame, []).append(prompt)
        return OwnPrompts(origin=table.name, table=by_frame, masks={})
    if masks is None:
        return None
    if not masks.is_dir():
        raise PromptError(f"no folder of prompt masks at {masks}")
    folders = {name: images_by_name(masks / name) for name in {row.sequence for row in frames.values()}}
    every = images_by_name(masks)
    found = {
        name: path
        for name, row in frames.items()
        if (path := _mask_file(folders[row.sequence], row.name) or _mask_file(every, row.name))
    }
    if not found:
        raise PromptError(
            f"no label image in {masks} has the name of a frame; expected e.g. {next(iter(frames.values())).name}.tif "
            f"or mask012.tif for t012"
        )
    return OwnPrompts(origin=masks.name, table={}, masks=found)


def _mask_file(files: dict[str, Path], name: str) -> Path | None:
    number = re.fullmatch(r"t(\d+)", name)
    stems = [name] + ([f"mask{number[1]}", f"man_seg{number[1]}"] if number else [])
    return next((files[same_name(stem)] for stem in stems if same_name(stem) in files), None)


def own_questions(own: OwnPrompts, frame: FrameCells, radius: float) -> Sequence[Question]:
    """Match the prompts of a frame to its cells and ask; cells without a prompt are not asked for.

    Raises
    ------
    PromptError
        A label image has another size than its frame, or a prompt names a cell that is not there.
    """

    def asked(cell: CellRecord, prompt: Prompt) -> Question:
        return ask(frame, cell, context_of(frame, cell), prompt, radius=radius, origin=own.origin)

    if own.masks:
        path = own.masks.get(frame.frame)
        if path is None:
            return []
        labels = read_label(probe_label(path)[0])
        pairs = match_masks(labels, frame.label)
        cells = [cell for cell in frame.cells if cell.label in pairs]
        return [asked(cell, mask_prompt(labels, pairs[cell.label])) for cell in cells]
    by_id = {cell.cell: cell for cell in frame.cells}
    labels_of = {name: cell.label for name, cell in by_id.items()}
    matched, _ = match_prompts(own.table.get(frame.frame, []), labels_of, frame.label)
    return [asked(by_id[cell], given.prompt) for cell, given in matched.items()]
