"""The result of an audit, as its run keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hela_store.runs.info import RunInfo

KIND = "audit"


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The share of the injected faults of a kind that was among the flagged labels.

    Attributes
    ----------
    kind : ``"all"``, or one of :data:`hela_store.audit.config.FAULTS`
    n : injected faults
    at : share of them that was flagged, for each share in :data:`hela_store.audit.config.FLAGGED`
    named : share of them whose most likely kind was theirs, found or not
    """

    kind: str
    n: int
    at: tuple[float, ...]
    named: float


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """An audit.

    Attributes
    ----------
    run : id
    frames, labels, places : how many were judged; places have a cell for the detector, or in time, and no label
    blocks : into how many blocks of frames they were cut
    likely : suspects with a score of 0.5 or more
    recall : of injected faults, by kind, see :class:`Recall`
    flagged : shares of flagged labels that ``recall`` is about
    test : labels of the test split among them
    top : the first ten suspects: ``rank``, ``frame``, ``cell``, ``x0`` to ``y1``, ``score``, ``kind`` and ``reason``
    notes : what a reader has to know
    reused : whether the run was finished before it was asked for
    """

    run: str
    frames: int
    labels: int
    places: int
    blocks: int
    likely: int
    recall: tuple[Recall, ...]
    flagged: tuple[float, ...]
    test: int
    top: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    reused: bool = False

    @classmethod
    def of(cls, run: RunInfo) -> AuditResult:
        """Return the result that a published run has in its log."""
        logged = run.result()
        found = tuple(Recall(**one | {"at": tuple(one["at"])}) for one in logged["recall"])
        parts = {name: tuple(logged[name]) for name in ("flagged", "top", "notes")}
        return cls(**logged | parts | {"recall": found, "reused": True})

    def to_json(self) -> dict[str, Any]:
        """Return what ``hela-store audit --json`` prints."""
        return asdict(self)
