"""The report: every figure whose data is there, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.store.store import Store

from .augmented import augmented
from .budgets import budgets
from .cells import correlograms
from .choice import choose
from .detection import detection
from .frames import worst_frames
from .gallery import gallery
from .ladder import ladder
from .learning import learning
from .mended import mended
from .page import render
from .provenance import provenance
from .robustness import robustness
from .scores import against, calibration, change, distributions, over_time
from .slices import slices
from .suspects import suspects


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """Result of a report.

    Attributes
    ----------
    path : str
    bytes : int
    split : str
        Block the scores are of; empty without any.
    runs : tuple of str
        Ids of the runs in it.
    sections : tuple of str
        Ids of the sections in it.
    charts, cards : int
        How many.
    notes : tuple of str
        What is missing, and what to run.
    """

    path: str
    bytes: int
    split: str
    runs: tuple[str, ...]
    sections: tuple[str, ...]
    charts: int
    cards: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def report(store: Store, runs: Sequence[str] = (), *, out: Path | str, progress: Progress = silent) -> ReportResult:
    """Write a report as one self-contained HTML file.

    Parameters
    ----------
    store : Store
    runs : run ids, their beginnings or ``"latest"``
        A fine-tuning stands for the evaluations of its weights; the first run named is compared with the last. None:
        the latest evaluation of every checkpoint.
    out : path
        The file; replaced where it exists.

    Raises
    ------
    RunError, StoreError
        A run is unknown; nothing was ingested; the file cannot be written.
    """
    store.frames_table()
    choice = choose(store, runs)
    shown = gallery(choice, progress)
    scored = [ladder, distributions, change, against, over_time] if choice.lines else []
    found = [figure(choice) for figure in progress(scored, total=len(scored), what="figures")] if scored else []
    if choice.lines:
        found += [slices(choice), calibration(choice)]
    # the gallery follows the charts that filter it
    found[4:4] = [shown]
    found.insert(0, worst_frames(choice))
    found += [
        robustness(choice),
        detection(choice, progress),
        suspects(choice),
        mended(choice),
        learning(choice),
        budgets(choice.store),
        augmented(choice),
        correlograms(choice),
        provenance(choice),
    ]
    sections = [section for section in found if section is not None]
    subtitle = f"{len(choice.runs)} runs" + (f", block {choice.split}" if choice.split else "")
    page = render(f"{store.recipe.name}: report", subtitle, sections, choice.notes).encode()
    path = Path(out).absolute()
    write_atomic(path, page)
    return ReportResult(
        path=str(path),
        bytes=len(page),
        split=choice.split,
        runs=tuple(run.id for run in choice.runs),
        sections=tuple(section.id for section in sections),
        charts=sum(len(section.charts) for section in sections),
        cards=sum(len(section.cards or ()) for section in sections),
        notes=choice.notes,
    )
