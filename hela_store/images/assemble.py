"""One label image from the masks of a frame, without running a decoder again.

Where masks overlap, the higher score (the predicted IoU) wins, ties go to the smaller id; a mask without a score loses
to every other. Ids are compared as numbers where they end in one, so cell 9 comes before cell 10.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hela_store.errors import RunError

from .rle import decode_crop


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One stored mask.

    Attributes
    ----------
    id : str
        Of the cell or detection; unique in its frame.
    score : float or None
    rle : str
        COCO run lengths of the whole frame.
    """

    id: str
    score: float | None
    rle: str


def assemble(answers: Sequence[Answer], frame_shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Paint masks into one label image.

    Parameters
    ----------
    answers : sequence of Answer
    frame_shape : (int, int)
        ``(rows, cols)`` px.

    Returns
    -------
    int32, (row, col)
        0 background; ``i + 1`` where the i-th of ``answers`` won. A mask that won no pixel is not in it.

    Raises
    ------
    RunError
        A mask is damaged, or of another frame size; an id occurs twice.
    """
    if len({answer.id for answer in answers}) < len(answers):
        raise RunError("a cell or detection has several masks in one frame; add --prompt KIND and --prompt-seed N")
    label = np.zeros(frame_shape, np.int32)
    order = sorted(range(len(answers)), key=lambda i: _rank(answers[i]), reverse=True)
    for i in order:
        mask, (x, y) = decode_crop(answers[i].rle, *frame_shape)
        label[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = i + 1
    return label


def _rank(answer: Answer) -> tuple[float, tuple[str, int, str]]:
    score = -math.inf if answer.score is None or math.isnan(answer.score) else answer.score
    match = re.fullmatch(r"(.*?)(\d+)", answer.id, re.DOTALL)
    return -score, (match[1], int(match[2]), answer.id) if match else (answer.id, 0, answer.id)
