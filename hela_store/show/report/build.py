"""The report: every figure whose data is there, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hela_store.base.files import write_atomic
from hela_store.base.progress import Progress, silent
from hela_store.base.text import counted
from hela_store.recipe.splits import SPLIT_NAMES
from hela_store.store.store import Store

from .augmented import augmented
from .budgets import budgets
from .cells import correlograms
from .choice import Choice, choose
from .detection import detection
from .frames import worst_frames
from .gallery import gallery
from .ladder import ladder
from .learning import learning
from .mended import mended
from .page import Section, render
from .provenance import provenance
from .robustness import robustness
from .scores import against, calibration, change, distributions, over_time
from .slices import slices
from .suspects import suspects

Part = Callable[[Choice], Section | None]
"""Makes a section, or None where the store has nothing for it."""


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
    charts: list[Part] = [ladder, distributions, change, against] if choice.lines else []
    more: list[Part] = [over_time, slices, calibration] if choice.lines else []
    parts: list[Part] = [
        *(worst_frames, *charts, lambda _: shown, *more),  # the gallery follows the charts that filter it
        *(robustness, partial(detection, progress=progress), suspects, mended, learning),
        *(lambda choice: budgets(choice.store), augmented, correlograms, provenance),
    ]
    found = [part(choice) for part in progress(parts, total=len(parts), what="sections")]
    sections = [section for section in found if section is not None]
    subtitle = counted(len(choice.runs), "run") + (f", {SPLIT_NAMES[choice.split]} frames" if choice.split else "")
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
