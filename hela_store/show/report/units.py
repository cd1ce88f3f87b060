"""Intervals of the report's means: over tracks of cells and frames, of stills over images or groups of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hela_store.errors import StoreError
from hela_store.evaluation.tracks import CellTracks, cell_tracks, unseen_cells
from hela_store.metrics.intervals import crossed_interval

from .choice import Choice, Row


@dataclass(frozen=True, kw_only=True)
class Units:
    """Describe what intervals count once, and the cells that no training frame holds.

    Attributes
    ----------
    tracks : None where the label images that say which cells are one cannot be read; then there are no intervals
    unseen : None where all cells are such
    why : why there are no tracks
    """

    tracks: CellTracks | None
    unseen: frozenset[str] | None
    why: str = ""

    @classmethod
    def of(cls, choice: Choice, frames: Sequence[str]) -> Units:
        """Read them from the label images of these frames."""
        try:
            unseen = unseen_cells(choice.store, frames) if choice.split == "test" else None
            tracks = cell_tracks(choice.store, frames)
        except StoreError as error:
            return cls(tracks=None, unseen=None, why=str(error))
        return cls(tracks=tracks, unseen=None if unseen is None else frozenset(unseen))

    def __str__(self) -> str:
        return f"no intervals, {self.why}" if self.tracks is None else str(self.tracks)

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
        if self.tracks is None or not rows or any(row[name] is None for row in rows):
            return None, None
        sums, counts = (np.array([row[key] for row in rows], np.float64) for key in (name, "n"))
        found = crossed_interval(sums / counts, self.tracks.units([row["cell"] for row in rows]), counts, draws=0)
        found = found.within(0, 1)
        return (None, None) if math.isnan(found.low) else (found.low, found.high)
