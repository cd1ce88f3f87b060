"""The suspicious labels of the latest audit, one after the other: accept what is proposed, or keep the label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.audit.proposal import accepted, kept, label_of
from hela_store.audit.result import KIND
from hela_store.catalog import index as catalog
from hela_store.errors import LabelError, QueryError
from hela_store.images.rle import decode_crop
from hela_store.labels.events import LabelEvent
from hela_store.runs.folder import list_runs
from hela_store.runs.info import RunInfo

from .proposals import TAKEN
from .session import Saved, Session

ROWS = """
    SELECT run, suspect, rank, frame, cell, x0, y0, x1, y1, score, kind, reason, rle
    FROM suspects WHERE run = $run ORDER BY rank
"""
NONE = "No audit ranked the labels yet; hela-store audit does."
Row = dict[str, Any]


class Suspects:
    """Suspects that nobody decided on since the audit, in the order of their rank.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._run: RunInfo | None = None
        self._rows: list[Row] = []

    def next(self, after: int) -> Row | None:
        """Return the next suspect to decide on that has a higher rank; None where there is none.

        Raises
        ------
        LabelError
            There is no audit.
        """
        run = self._latest()
        named = self._session.named_since(run.labels_version)
        return next((row for row in self._rows if row["rank"] > after and self._is_open(row, named)), None)

    def decide(self, run: str, suspect: str, accept: bool, seen: object, seconds: float) -> Saved:
        """Accept what is proposed for a suspect, or keep its label; durable when this returns.

        Parameters
        ----------
        run, suspect : of its row
        accept : whether the proposal is accepted
        seen : version of the labels that the page shows
        seconds : how long the person took

        Raises
        ------
        LabelError
            Nothing is proposed, there is no label to keep, or the labels changed since.
        ConflictError
            Another page changed the label since.
        QueryError
            There is no such suspect in the latest audit.
        """
        session = self._session
        if run != self._latest().id:
            raise QueryError("a newer audit ranked the labels since; press J to go on with it")
        row = next((row for row in self._rows if row["suspect"] == suspect), None)
        if row is None:
            raise QueryError(f"audit {run} has no suspect {suspect!r}")
        with session.lock:
            label = session.label(row["frame"])
            own = label_of(row)
            session.check_current(row["frame"], () if own is None else (own,), seen)
            return session.append([self._event(row, label, accept, seconds)])

    def _event(self, row: Row, label: npt.NDArray[np.int32], accept: bool, seconds: float) -> LabelEvent:
        who = self._session.who
        if not accept:
            return kept(row, label, who, seconds)
        return accepted(row, label, who, lambda: self._session.new_labels(row["frame"], 1)[0], seconds)

    def _latest(self) -> RunInfo:
        runs = list_runs(self._session.store.path, KIND)
        if not runs:
            raise LabelError(NONE)
        if self._run is None or self._run.id != runs[-1].id:
            self._rows = catalog.query(self._session.store.path, ROWS, {"run": runs[-1].id}).to_pylist()
            self._run = runs[-1]
        return self._run

    def _is_open(self, row: Row, named: set[tuple[str, int]]) -> bool:
        frame, own = row["frame"], label_of(row)
        if own is not None:
            return (frame, own) not in named and bool((self._session.label(frame) == own).any())
        if not row["rle"]:
            return False
        label = self._session.label(frame)
        mask, (x, y) = decode_crop(row["rle"], *label.shape)
        under = label[y : y + mask.shape[0], x : x + mask.shape[1]][mask]
        return bool((under > 0).mean() < TAKEN)
