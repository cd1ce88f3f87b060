"""Cells that are offered next, and whether the rule that chose them does better than chance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock

import numpy as np
from scipy.stats import ttest_ind

from hela_store.images.rle import Rle, decode
from hela_store.metrics.overlap import overlap

from .next_cell import Candidate, Offer, choose, spread
from .overview import Overview
from .proposals import Proposals
from .rules import Rule
from .session import Saved, Session

POOL = 6
"""Frames beside the one that is shown in which the next cell is looked for."""
LEAST = 5
"""Cells of each kind from which the rule is compared with chance."""
IDLE = 1.0
"""Seconds without a question after which proposals are made ahead."""


class Offers:
    """Offers cells of the training block, and remembers how far the masks that were offered were off.

    Parameters
    ----------
    session : Session
    proposals : Proposals
    overview : Overview
    rule : how the next one is chosen
    """

    def __init__(self, session: Session, proposals: Proposals, overview: Overview, rule: Rule) -> None:
        self._session, self._proposals, self._overview, self._rule = session, proposals, overview, rule
        self._preparing = Lock()
        self._busy = 0.0
        self._count = 0
        self._open: dict[str, Offer] = {}
        self._taken: dict[tuple[str, int], tuple[bool, Rle]] = {}
        self._errors: dict[tuple[str, int], tuple[int, float | None]] = {}

    def busy(self) -> None:
        """Note that somebody asks something, which goes before proposals made ahead."""
        self._busy = time.monotonic()

    def prepare(self) -> None:
        """Make the proposals of one more frame of those in which the next cell is looked for, while nobody asks."""
        if time.monotonic() - self._busy < IDLE or not self._preparing.acquire(blocking=False):
            return
        try:
            for frame in spread(self._overview.training(), POOL):
                lacking = self._lacking(frame)
                if lacking:
                    proposals, needed = lacking[0]
                    proposals.of(needed)
                    return
        finally:
            self._preparing.release()

    def _lacking(self, frame: str) -> list[tuple[Proposals, str]]:
        """Return which proposals are still to be made before candidates of a frame can be measured."""
        return [(proposals, needed) for proposals, needed in self._rule.needs(frame) if needed not in proposals.known()]

    def next(self, page: str, shown: str) -> Offer | None:
        """Offer the next cell to a page that shows a frame; None where there is none."""
        offer = choose(self._candidates(shown), self._rule.words, self._count, self._rule.measure)
        if offer is not None:
            self._count += 1
            self._open[page] = offer
        return offer

    def _candidates(self, shown: str) -> list[Candidate]:
        """Return the proposals that may be offered: of the frame that is shown and of some others, in a fixed order."""
        training = self._overview.training()
        frames = {frame for frame in spread(training, POOL) if not self._lacking(frame)}
        frames |= {shown} & set(training) or set(training[:1])
        found: list[Candidate] = []
        for frame in sorted(frames):
            label = self._session.label(frame)
            found += [Candidate(frame=frame, proposal=each) for each in self._proposals.open(frame, label)]
        return found

    def took(self, page: str, saved: Saved) -> None:
        """Remember what was offered for a cell that was taken, with the offered mask or another one."""
        offer = self._open.pop(page, None)
        if offer is None or offer.candidate.frame != saved.frame or saved.named is None:
            return
        under = offer.candidate.proposal.under(self._session.label(saved.frame))
        if (under == saved.named[0]).any():
            self._taken[saved.frame, saved.named[0]] = (offer.random, offer.candidate.proposal.rle)

    def errors(self) -> tuple[list[float], list[float]]:
        """Return 1 less the IoU of offered masks with the cells as they are now: by the rule, and at random."""
        found: tuple[list[float], list[float]] = ([], [])
        for cell, (random, rle) in list(self._taken.items()):  # another page may take one meanwhile
            changed = self._session.changed(*cell)
            if self._errors.get(cell, (-1, None))[0] != changed:
                self._errors[cell] = (changed, self._error(*cell, rle))
            error = self._errors[cell][1]
            found[random].extend([] if error is None else [error])
        return found

    def _error(self, frame: str, cell: int, rle: Rle) -> float | None:
        """Return 1 less the IoU of a mask with a cell as it is now; None where it is no more."""
        label = self._session.label(frame)
        if not (label == cell).any():
            return None
        mask, origin = decode(rle, label.shape)
        return 1 - overlap(mask, label == cell, origin, (0, 0)).iou

    def __str__(self) -> str:
        if self._rule.measure is None:
            return f"Next: {self._rule.words}."
        stated = f"Next: {self._rule.name}; every fifth at random as the control."
        by_rule, control = self.errors()
        if not by_rule or not control:
            return stated
        return (
            f"{stated} Masks offered by the rule were off by {np.mean(by_rule):.2f} (n = {len(by_rule)}), at random by "
            f"{np.mean(control):.2f} (n = {len(control)}): {rule_or_chance(by_rule, control)}."
        )


def rule_or_chance(by_rule: Sequence[float], control: Sequence[float]) -> str:
    """Say how much harder the cells are that the rule offers than those of chance, with Welch's interval.

    No verdict: the page says this again after every cell, and one nucleus may be taught in several frames, so that the
    interval would cover too seldom for one.
    """
    if min(len(by_rule), len(control)) < LEAST:
        return f"too early to compare, {LEAST} of each are needed"
    if np.ptp(by_rule) == np.ptp(control) == 0:
        return "too much alike to compare"
    low, high = ttest_ind(by_rule, control, equal_var=False).confidence_interval()
    change = np.mean(by_rule) - np.mean(control)
    return (
        f"difference {change:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} if each was of another nucleus; this is no "
        "verdict, as it is looked at after every cell"
    )
