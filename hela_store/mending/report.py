"""Result of mending, from the rows of its run: what was done, and the IoU before and after where labels are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.runs.folder import RunInfo
from hela_store.store.store import Store

from .gate import NOTICEABLE

FEW = 0.5
"""Median agreement of answers and masks, and share of masks on labelled cells, below which a user is warned."""


@dataclass(frozen=True, kw_only=True)
class BlockScore:
    """Masks of one block of the split that stand for a labelled cell, on frames that nothing was fitted on.

    Attributes
    ----------
    n : int
    before, after : float
        Mean IoU with the cell.
    better, worse : float
        Share whose IoU rose or fell by more than :data:`hela_store.mending.gate.NOTICEABLE`.
    """

    n: int
    before: float
    after: float
    better: float
    worse: float


@dataclass(frozen=True, kw_only=True)
class MendReport:
    """Result of mending.

    Attributes
    ----------
    run : str
        Id of the run with ``changes.parquet``.
    out : Path
        Folder with the label images.
    checkpoint : str
        Run whose decoder answered, or ``"zero-shot"``.
    frames, masks : int
        How many were given.
    actions : dict of str to int
        How many masks were kept, mended, split or merged.
    proposals : dict of str to int
        How many splits and merges are proposed.
    scores : dict of str to BlockScore
        By block of the split, where labels are that nothing was fitted on.
    fitted : dict of str to int
        How many masks that stand for a labelled cell are on frames that something was fitted on, by what that was:
        ``"decoder"``, ``"gate"``, ``"errors"``, or several of them.
    gate : dict
        See :class:`hela_store.mending.gate.Gate`.
    errors : str
        Error model that masks were drawn from to calibrate the gate, in words.
    notes : tuple of str
        What a user has to know.
    reused : bool
        Whether the run was finished before it was asked for.
    """

    run: str
    out: Path
    checkpoint: str
    frames: int
    masks: int
    actions: dict[str, int]
    proposals: dict[str, int]
    scores: dict[str, BlockScore]
    fitted: dict[str, int]
    gate: dict[str, Any]
    errors: str
    notes: tuple[str, ...] = ()
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store mend --json`` prints."""
        return asdict(self) | {"out": str(self.out)}


def mend_report(
    store: Store, run: RunInfo, out: Path, rows: Sequence[Mapping[str, Any]], *, reused: bool
) -> MendReport:
    """Return what a finished run did.

    Parameters
    ----------
    store : Store
    run : RunInfo
    out : Path
        Folder with the label images.
    rows : sequence of mapping
        Those of the run's ``changes.parquet``.
    reused : bool
        Whether the run was finished before it was asked for.
    """
    result = run.result()
    complete = {name for name, record in store.frame_records().items() if record.has_label and not record.partial}
    return MendReport(
        run=run.id,
        out=out,
        checkpoint=run.checkpoint or "zero-shot",
        frames=len(result["files"]),
        masks=sum(row["label"] is not None for row in rows),
        actions=dict(Counter(row["action"] for row in rows)),
        proposals=dict(Counter(row["proposal"] for row in rows if row["proposal"] and row["label"] is not None)),
        scores=block_scores(rows),
        fitted=dict(Counter(_fitted(row) for row in rows if _fitted(row) and row["iou_before"] is not None)),
        gate=result["gate"],
        errors=result["errors"],
        notes=tuple(_notes(run, rows, complete)),
        reused=reused,
    )


def block_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, BlockScore]:
    """Return the scores of the masks that stand for a labelled cell, by block of the split.

    Those on frames that something was fitted on are left out.
    """
    blocks: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["iou_before"] is not None and not _fitted(row):
            blocks.setdefault(row["split"], []).append((row["iou_before"], row["iou_after"]))
    found = {}
    for block, pairs in sorted(blocks.items()):
        before, after = np.array(pairs).T
        found[block] = BlockScore(
            n=len(pairs),
            before=float(before.mean()),
            after=float(after.mean()),
            better=float(np.mean(after - before > NOTICEABLE)),
            worse=float(np.mean(before - after > NOTICEABLE)),
        )
    return found


def _fitted(row: Mapping[str, Any]) -> str:
    # runs of before this was kept do not say
    return str(row.get("fitted", "unknown"))


def _notes(run: RunInfo, rows: Sequence[Mapping[str, Any]], complete: set[str]) -> Iterator[str]:
    # ``complete`` are the frames in which every cell is labelled
    result = run.result()
    if result["unused"]:
        few = ", ".join(result["unused"][:3])
        yield f"{len(result['unused'])} files have no frame's name and are not mended: {few}"
    yield f"the gate was calibrated with {result['errors']}"
    stand = [row["cell"] is not None for row in rows if row["frame"] in complete and row["label"] is not None]
    if stand and np.mean(stand) < FEW:
        yield (
            f"of {len(stand)} masks in labelled frames only {sum(stand)} lie on a labelled cell: are these masks of "
            "other frames, or were they saved turned or shifted?"
        )
    agreement = float(np.median([row["agreement"] for row in rows]))
    if agreement < FEW:
        yield (
            f"half of the answers have an IoU below {agreement:.2f} with their masks: are these masks of other frames, "
            "or were they saved turned or shifted?"
        )
