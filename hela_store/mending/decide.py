"""Choose what becomes of each mask of a frame: mended, kept, split or merged, and give every pixel to one of them.

A mask that is kept keeps all of its pixels. Where answers overlap, the higher predicted IoU wins. An answer that others
take too much of gives way to the old mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hela_store.images.rle import largest_piece, trim
from hela_store.metrics.overlap import overlap

from .answers import Answer, Piece

CLAIM = 0.5
"""IoU of two answers from which on both claim one cell."""
HELD = 0.5
"""Share of a mask that an answer must hold to stand for it, in a merge; and of a second answer within the mask."""
APART = 0.2
"""Largest IoU of the two answers of a split."""
LEFT = 0.8
"""Share of an answer that must be left once better ones took their pixels."""

KEPT, MENDED, SPLIT, MERGED = "kept", "mended", "split", "merged"
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Describe what becomes of one mask.

    Attributes
    ----------
    label : int
        Its value in the tool's label image; 0 for a piece that a split added.
    new_label : int
        Its value in the mended image; 0 where it went into another mask.
    action : str
        ``"kept"``, ``"mended"``, ``"split"`` or ``"merged"``.
    reason : str
        Why, in words.
    probability : float
        That the answer is better than the mask.
    answer : Answer
    mask : Piece
        What the mended image holds.
    proposal : str
        ``"split"``, ``"merge"`` or empty.
    partner : int or None
        The other mask of a merge, or of a split that was applied.
    """

    label: int
    new_label: int
    action: str
    reason: str
    probability: float
    answer: Answer
    mask: Piece
    proposal: str = ""
    partner: int | None = None


def decide(
    answers: Mapping[int, Answer],
    probabilities: Mapping[int, float],
    *,
    threshold: float,
    sure_from: float,
    split_merge: bool,
    shape: tuple[int, int],
    free: int,
) -> tuple[Labels, list[Change]]:
    """Choose what becomes of the masks of a frame.

    Parameters
    ----------
    answers, probabilities : mapping
        By the value of the mask in the tool's label image.
    threshold, sure_from : float
        As of :class:`hela_store.mending.gate.Gate`.
    split_merge : bool
        Whether proposals are applied.
    shape : (int, int)
        ``(rows, cols)`` px.
    free : int
        The first number for pieces that splits add: no mask of any frame has it or a higher one, because the masks of
        a tool may be tracks.

    Returns
    -------
    label : int32, (row, col)
    changes : list of Change
        By label; pieces that splits added come last.
    """
    changes = {label: _first(label, answer, probabilities[label], threshold) for label, answer in answers.items()}
    _propose_merges(changes, sure_from, split_merge)
    added = _propose_splits(changes, sure_from, split_merge, free)
    every = [*(changes[label] for label in sorted(changes)), *added]
    return _resolved(every, shape)


def _first(label: int, answer: Answer, probability: float, threshold: float) -> Change:
    about = {"label": label, "new_label": label, "probability": probability, "answer": answer}
    if not answer.new.mask.any():
        return Change(**about, action=KEPT, reason="the answer is empty", mask=answer.old)  # type: ignore[arg-type]
    if probability < threshold:
        reason = f"a gain is doubtful: probability {probability:.2f}, needed {threshold:.2f}"
        return Change(**about, action=KEPT, reason=reason, mask=answer.old)  # type: ignore[arg-type]
    reason = f"the answer is better with probability {probability:.2f}"
    return Change(**about, action=MENDED, reason=reason, mask=answer.new)  # type: ignore[arg-type]


def _held(mask: Piece, by: Piece) -> float:
    """Return the share of a mask that another holds."""
    shared = overlap(mask.mask, by.mask, mask.origin, by.origin)
    return shared.intersection / max(shared.area_a, 1)


def _kept(change: Change, reason: str, **more: object) -> Change:
    return replace(change, action=KEPT, reason=reason, mask=change.answer.old, **more)  # type: ignore[arg-type]


def _propose_merges(changes: dict[int, Change], sure_from: float, apply: bool) -> None:
    """See to masks whose answers are one cell: pieces of it are a merge, a mask that strayed to it is kept."""
    for one, other in _claims(changes):
        first, second = changes[one], changes[other]
        if MERGED in (first.action, second.action) or "merge" in (first.proposal, second.proposal):
            continue
        best = max((first.answer, second.answer), key=lambda answer: answer.predicted_iou)
        pieces = min(_held(change.answer.old, best.new) for change in (first, second)) >= HELD
        if not (pieces and best.predicted_iou >= sure_from):
            stray = min((one, other), key=lambda label: changes[label].answer.agreement)
            winner = other if stray == one else one
            changes[stray] = _kept(changes[stray], f"its answer is the cell of mask {winner}")
            continue
        if not apply:
            for label, partner in ((one, other), (other, one)):
                reason = f"it and mask {partner} are answered with one cell: a merge is proposed"
                changes[label] = _kept(changes[label], reason, proposal="merge", partner=partner)
            continue
        into, gone = (one, other) if first.answer.old.area >= second.answer.old.area else (other, one)
        reason = f"mask {gone} was merged into it: both are answered with one cell"
        how = {"proposal": "merge", "action": MERGED}
        changes[into] = replace(changes[into], **how, reason=reason, partner=gone, mask=best.new)  # type: ignore[arg-type]
        empty = Piece(mask=np.zeros((0, 0), bool), origin=best.new.origin)
        reason = f"it was merged into mask {into}: both are answered with one cell"
        changes[gone] = replace(changes[gone], **how, reason=reason, partner=into, mask=empty, new_label=0)  # type: ignore[arg-type]


def _claims(changes: Mapping[int, Change]) -> list[tuple[int, int]]:
    """Return the pairs of masks whose answers are the same cell, the closest first."""
    labels = [label for label in sorted(changes) if changes[label].answer.new.mask.any()]
    boxes = {label: _box(changes[label].answer.new) for label in labels}
    found = []
    for place, one in enumerate(labels):
        for other in labels[place + 1 :]:
            if _meet(boxes[one], boxes[other]):
                iou = changes[one].answer.new.iou(changes[other].answer.new)
                if iou >= CLAIM:
                    found.append((-iou, one, other))
    return [(one, other) for _, one, other in sorted(found)]


def _box(piece: Piece) -> tuple[int, int, int, int]:
    (x, y), (rows, columns) = piece.origin, piece.mask.shape
    return x, y, x + columns, y + rows


def _meet(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _propose_splits(changes: dict[int, Change], sure_from: float, apply: bool, free: int) -> list[Change]:
    """See to masks that are answered with two cells; return the pieces that are added."""
    added: list[Change] = []
    for label in sorted(changes):
        change = changes[label]
        rest = change.answer.rest
        if change.proposal or rest is None or not _is_split(change.answer, rest, sure_from):
            continue
        others = [changes[other].answer for other in changes if other != label]
        if any(max(_held(rest.new, other.old), rest.new.iou(other.new)) >= APART for other in others):
            continue
        if not apply:
            reason = "it is answered with two cells: a split is proposed"
            changes[label] = _kept(change, reason, proposal="split")
            continue
        number = free + len(added)
        reason = f"it was two cells: the other one is mask {number}"
        how = {"action": SPLIT, "proposal": "split"}
        changes[label] = replace(change, **how, reason=reason, partner=number, mask=change.answer.new)  # type: ignore[arg-type]
        about = {"label": 0, "new_label": number, "probability": change.probability, "partner": label}
        reason = f"it was split off mask {label}"
        added.append(Change(**about, **how, reason=reason, answer=rest, mask=rest.new))  # type: ignore[arg-type]
    return added


def _is_split(answer: Answer, rest: Answer, sure_from: float) -> bool:
    if not (answer.new.mask.any() and rest.new.mask.any()):
        return False
    sure = min(answer.predicted_iou, rest.predicted_iou) >= sure_from
    return sure and answer.new.iou(rest.new) < APART and min(_held(p.new, answer.old) for p in (answer, rest)) >= HELD


def _resolved(changes: list[Change], shape: tuple[int, int]) -> tuple[Labels, list[Change]]:
    """Give every pixel to one mask; an answer of which too little is left gives way to the old mask."""
    while True:
        label = np.zeros(shape, np.int32)
        fixed = [change for change in changes if change.action == KEPT]
        moving = [change for change in changes if change.action != KEPT and change.mask.mask.any()]
        for change in fixed:
            _window(label, change.mask)[change.mask.mask] = change.new_label
        done = {id(change): change for change in changes}
        back: list[Change] = []
        for change in sorted(moving, key=lambda c: (-c.answer.predicted_iou, c.new_label)):
            part = _window(label, change.mask)
            left = largest_piece(change.mask.mask & (part == 0))
            if left.sum() < LEFT * change.mask.area:
                back.append(change)
                continue
            part[left] = change.new_label
            mask, origin = trim(left, change.mask.origin)
            done[id(change)] = replace(change, mask=Piece(mask=mask, origin=origin))
        if not back:
            return label, list(done.values())
        changes = _give_way(changes, back)


def _give_way(changes: list[Change], back: list[Change]) -> list[Change]:
    """Return the changes with the old masks in place of these answers and of all that was merged or split with them."""
    gone = {change.new_label for change in back} | {change.partner for change in back if change.partner is not None}
    found = []
    for change in changes:
        if change.new_label not in gone and change.label not in gone:
            found.append(change)
        elif change.label:
            reason = "other masks hold too much of its answer"
            found.append(_kept(change, reason, new_label=change.label, partner=None))
    return found


def _window(label: Labels, piece: Piece) -> Labels:
    x, y = piece.origin
    return label[y : y + piece.mask.shape[0], x : x + piece.mask.shape[1]]
