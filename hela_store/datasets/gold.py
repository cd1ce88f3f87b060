"""What labels say and where they say nothing: gold over silver, the field of interest, valid pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray
from hela_store.images.labels import Labels, compact, overlaps


def gold_over_silver(gold: Labels, silver: Labels) -> tuple[Labels, BoolArray]:
    """Put gold nuclei in the place of the silver ones they match; the rest of the frame stays silver.

    - A gold nucleus matches the silver one that holds more than half of its pixels (the challenge's rule for SEG),
      replaces it and takes its number. Where several gold nuclei match one silver one (silver had merged them), the
      largest overlap takes the number, the others get new ones.
    - Pixels of a replaced silver nucleus that no gold nucleus covers become background. Where they are more than half
      of that silver nucleus it probably held another cell that nobody drew in gold: these pixels are not valid.
    - A gold nucleus that matches nothing is added with a new number (above all numbers of both).
    - Gold wins every pixel. A silver nucleus more than half of which is taken without a match was a fragment of the
      same nucleus and is removed; any other keeps what is left of it.

    Parameters
    ----------
    gold, silver : int32, (row, col)
        0 is background.

    Returns
    -------
    label : int32, (row, col)
    valid : bool, (row, col)
    """
    silver_ids, silver_index = compact(silver)
    gold_ids, gold_index = compact(gold)
    gold_area = np.bincount(gold_index.ravel(), minlength=gold_ids.size)
    silver_area = np.bincount(silver_index.ravel(), minlength=silver_ids.size)
    match = {g: (s, n) for g, s, n in overlaps(gold_index, silver_index) if 2 * n > gold_area[g]}
    taken = np.bincount(silver_index[gold > 0], minlength=silver_ids.size)
    replaced = np.zeros(silver_ids.size, bool)
    replaced[[s for s, _ in match.values()]] = True
    gone = replaced | (2 * taken > silver_area)
    doubtful = replaced & (2 * (silver_area - taken) > silver_area)
    gone[0] = doubtful[0] = False
    present = np.flatnonzero(gold_area[1:]) + 1
    following = max(int(gold_ids[-1]), int(silver_ids[-1])) + 1
    number = np.zeros(gold_ids.size, np.int64)
    number[present] = _numbers([int(g) for g in present], match, silver_ids, following)
    label = np.where(gold > 0, number[gold_index], np.where(gone[silver_index], 0, silver))
    return label.astype(np.int32), ~(doubtful[silver_index] & (gold == 0))


def _numbers(
    gold: list[int], match: dict[int, tuple[int, int]], silver_ids: npt.NDArray[np.int64], following: int
) -> list[int]:
    """Return the label value each gold index gets: its silver one's, or a new one from ``following`` on."""
    best: dict[int, int] = {}
    for g in sorted(match, key=lambda g: match[g][1]):
        best[match[g][0]] = g
    numbers = []
    for g in gold:
        if g in match and best[match[g][0]] == g:
            numbers.append(int(silver_ids[match[g][0]]))
        else:
            numbers.append(following)
            following += 1
    return numbers
