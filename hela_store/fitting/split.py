"""Split the labelled frames of a folder of which only some are labelled, so that each block has labels."""

from __future__ import annotations

from dataclasses import replace

from hela_store.base.progress import Progress
from hela_store.datasets import DatasetSummary
from hela_store.errors import DatasetError
from hela_store.recipe.recipe import SplitRecipe
from hela_store.recipe.splits import BLOCKS, default_split, format_ranges
from hela_store.workflows.new_groups import group_stills

from .config import FitConfig

LEAST = 3
"""Labelled frames that are needed: one to train on, one to choose on and one to test on."""


def split_of_labelled(config: FitConfig, summary: DatasetSummary, progress: Progress) -> dict[str, str]:
    """Return the blocks of the labelled frames as settings of a new store; empty where ``new`` decides.

    Parameters
    ----------
    config : FitConfig
        The folder.
    summary : DatasetSummary
        What a look at the folder found.
    progress : callable
        Shown while stills are compared, of which copies stay in one block.

    Returns
    -------
    dict of str to str
        ``train_frames``, ``val_frames`` and ``test_frames``. It is empty where all frames are labelled, and where
        several sequences have labels of other frame numbers, which one set of numbers cannot say.

    Raises
    ------
    DatasetError
        Fewer than three frames are labelled, or they are copies of each other.
    """
    if summary.labelled < LEAST:
        raise DatasetError(
            f"{config.data} has {summary.labelled} labelled frames, expected at least {LEAST}: one to train on, one "
            "to choose on and one to test on"
        )
    if summary.labelled == summary.frames:
        return {}
    dataset = replace(summary.config, path=str(config.data))
    entries = summary.entries
    labelled = [(entry.id, entry.sequence, entry.time) for entry in entries if entry.labels]
    stills = dataset.stills and not summary.lapses
    groups = group_stills(dataset, SplitRecipe(), entries, "auto", progress).of if stills else None
    blocks = default_split(labelled, stills, groups)
    times = {name: {time for frame, _, time in labelled if blocks[frame] == name} for name in BLOCKS}
    if not all(times.values()):
        raise DatasetError(
            f"the {summary.labelled} labelled frames of {config.data} are copies of each other, so they cannot train, "
            "choose and test; label frames that differ, or split them yourself with `hela-store new`"
        )
    if sum(map(len, times.values())) > len(set().union(*times.values())):
        return {}
    return {f"{name}_frames": format_ranges(found) for name, found in times.items()}
