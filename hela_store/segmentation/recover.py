"""Misses recovered in sequences: what neighbouring frames show, given to the decoder as prompts of this one.

A nucleus that is found before and after seldom left in between. Its box and coarse mask, moved as the cells around it
moved, become a prompt; the decoder's answer counts only if it is sure of it and it lies where the prompt was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hela_store.detection.detections import Detections, join, no_detections
from hela_store.images.boxes import box_iou
from hela_store.images.rle import Rle, decode, encode
from hela_store.metrics.matching import match

from .assemble import FoundCell

SAME_CELL = 0.3
"""Least box IoU of a cell with itself one frame later."""
TAKEN = 0.3
"""Share of a moved box that lies in one detected box from which the cell counts as found already."""
GUIDES = 5
"""Nearest matched cells whose mean displacement a box moves by."""
SURE = 0.8
"""Least predicted IoU of a recovered mask."""
AGREES = 0.5
"""Least IoU of a recovered mask's box with the box it was asked with."""

Floats = npt.NDArray[np.float64]


def neighbours(frames: Sequence[tuple[str, str, int]]) -> dict[str, list[str]]:
    """Return for each of (frame, sequence, time) the frames of the same sequence one step before and after it."""
    place = {(sequence, time): frame for frame, sequence, time in frames}
    return {
        frame: [place[sequence, time + step] for step in (-1, 1) if (sequence, time + step) in place]
        for frame, sequence, time in frames
    }


def proposals(here: Detections, others: Sequence[Detections], shape: tuple[int, int]) -> Detections:
    """Return what neighbouring frames have and this one lacks, moved to where it should be.

    Parameters
    ----------
    here : detections of this frame that count
    others : of the frames before and after, those that count
    shape : (rows, cols) of the frame, px
    """
    out = no_detections()
    for other in others:
        pairs = match(box_iou(other.boxes, here.boxes), SAME_CELL)
        lost = np.flatnonzero(pairs.partner < 0)
        if len(lost) == 0:
            continue
        moved = _moved(other.take(lost), _shift(here, other, pairs.partner, lost), shape)
        known = np.concatenate([here.boxes, out.boxes])
        out = join([out, moved.take(_held(moved.boxes, known) < TAKEN)])
    return out


def _shift(here: Detections, other: Detections, partner: npt.NDArray[np.int64], lost: npt.NDArray[np.int64]) -> Floats:
    """Return how far the cells around each lost one moved, (N, 2) px, whole numbers so that masks move along."""
    found = np.flatnonzero(partner >= 0)
    if len(found) == 0:
        return np.zeros((len(lost), 2))
    middle = (other.boxes[:, :2] + other.boxes[:, 2:]) / 2
    step = (here.boxes[partner[found], :2] + here.boxes[partner[found], 2:]) / 2 - middle[found]
    far = np.linalg.norm(middle[lost][:, None] - middle[found][None], axis=2)
    nearest = np.argsort(far, axis=1)[:, :GUIDES]
    shift: Floats = step[nearest].mean(1).round()
    return shift


def _moved(found: Detections, shift: Floats, shape: tuple[int, int]) -> Detections:
    limit = np.array([shape[1], shape[0]], float)
    boxes = found.boxes + np.tile(shift, 2)
    boxes = np.concatenate([boxes[:, :2].clip(0, limit), boxes[:, 2:].clip(0, limit)], 1)
    inside = np.asarray((boxes[:, 2:] - boxes[:, :2] >= 1).all(1))
    masks: list[Rle | None] = []
    for rle, (dx, dy) in zip(found.masks, shift.astype(int), strict=True):
        if rle is None:
            masks.append(None)
        else:
            mask, (x, y) = decode(rle, shape)
            masks.append(encode(mask, (x + int(dx), y + int(dy)), shape))
    points = (found.points + shift).clip(0, limit - 1)
    tiles = np.full(len(found), -1, np.int64)
    return replace(found, boxes=boxes, points=points, masks=tuple(masks), tiles=tiles).take(inside)


def _held(boxes: Floats, known: Floats) -> Floats:
    """Return the largest share of each box that lies in one of the known ones, (N,)."""
    low = np.maximum(boxes[:, None, :2], known[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], known[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    share: Floats = (shared / (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]).max(1, initial=0.0)
    return share


def recovered(answers: Sequence[FoundCell], first: int) -> list[FoundCell]:
    """Return those answers to proposals that can be believed, numbered from ``first`` on, marked as recovered."""
    return [
        replace(answer, number=first + answer.number, recovered=True)
        for answer in answers
        if answer.predicted_iou >= SURE and answer.box_agreement >= AGREES
    ]


def with_recovered(
    decode: Callable[[Detections], list[FoundCell]],
    found: Detections,
    others: Sequence[Detections],
    shape: tuple[int, int],
) -> tuple[list[FoundCell], Detections]:
    """Return the cells of a frame, those that its neighbours lead to among them, and the detections they number.

    Parameters
    ----------
    decode : gives the decoder's answers in this frame
    found : detections of this frame that count
    others : of the frames before and after, those that count; empty where nothing is to be recovered
    shape : (rows, cols) of the frame, px
    """
    more = proposals(found, others, shape)
    return decode(found) + recovered(decode(more), len(found)), join([found, more])
