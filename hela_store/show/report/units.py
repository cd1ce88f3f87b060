"""Intervals of the report's means: over tracks of cells and frames, of stills over images or groups of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hela_store.evaluation.tracks import CellTracks, cell_tracks, unseen_cells
from hela_store.metrics.intervals import crossed_interval

from .choice import Choice, Row


@dataclass(frozen=True, kw_only=True)
class Units:
    """What intervals count once, and the cells that no training frame holds; None where all are such."""

    tracks: CellTracks
    unseen: frozenset[str] | None

    @classmethod
    def of(cls, choice: Choice, frames: Sequence[str]) -> Units:
        """Read them from the label images of these frames."""
        unseen = unseen_cells(choice.store, frames) if choice.split == "test" else None
        return cls(tracks=cell_tracks(choice.store, frames), unseen=None if unseen is None else frozenset(unseen))

    def interval(self, rows: Sequence[Row], name: str) -> tuple[float | None, float | None]:
        """Return the 95 % interval of a mean over predictions.

        Parameters
        ----------
        rows : one a cell: ``cell``, ``n`` predictions, and the sum of their scores under ``name``

        Returns
        -------
        (float, float) or (None, None)
            None where a cell has no such score, or where all is of one track or frame.
        """
        if not rows or any(row[name] is None for row in rows):
            return None, None
        sums, counts = (np.array([row[key] for row in rows], np.float64) for key in (name, "n"))
        found = crossed_interval(sums / counts, self.tracks.units([row["cell"] for row in rows]), counts, draws=0)
        return (None, None) if math.isnan(found.low) else (found.low, found.high)
