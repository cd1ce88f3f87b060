"""Which frames a run looked at that found its cells itself: those where it found nothing count as well.

The blocks of a recipe say it only as long as they do not change: frames that were ingested later, or that another
split put into the block, would look as if the run had found nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from hela_store.errors import RunError
from hela_store.recipe.splits import members
from hela_store.runs.folder import RunFolder
from hela_store.runs.info import RunInfo
from hela_store.store.store import Store

from .reads import data_digest

TABLE = "frames"


def keep_frames(folder: RunFolder, frames: Iterable[str]) -> None:
    """Write ``frames.parquet`` of a run: the ids of the frames it looked at."""
    folder.write_table(TABLE, pa.table({"frame": pa.array(list(frames), pa.string())}))


def covered_frames(store: Store, run: RunInfo) -> list[str]:
    """Return the frames that a run with detections looked at, in the order of the store's frames.

    Parameters
    ----------
    store : Store
        With the run.
    run : RunInfo
        A run with ``detections.parquet``.

    Raises
    ------
    RunError
        An earlier version made the run, and its block holds other frames now, so nobody can tell; a file is damaged.
    """
    if run.has(f"{TABLE}.parquet"):
        there = {row["frame"] for row in run.rows(TABLE, ["frame"])}
    else:
        there = _of_earlier_version(store, run)
    return [frame for frame in store.frame_records() if frame in there]


def _of_earlier_version(store: Store, run: RunInfo) -> set[str]:
    split = run.split or "all"
    if run.config.get("data") == data_digest(store, ("train", split)):
        return set(members(store.blocks(), split))
    if run.has("predictions.parquet"):  # of every labelled cell, found or not
        return {row["frame"] for name in ("predictions", "detections") for row in run.rows(name, ["frame"])}
    if run.kind == "detect" and run.parent is None:  # a table of boxes says nothing of frames it has no box for
        return {row["frame"] for row in run.rows("detections", ["frame"])}
    raise RunError(
        f"run {run.id} of an earlier version does not say which frames it looked at, and split {split} holds other "
        f"frames now; run `hela-store detect run {run.parent or ''} --split {split}` again"
    )
