"""What labels say and where they say nothing: gold over silver, the field of interest, valid pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..types import BoolArray

Labels = npt.NDArray[np.integer]


def compact(label: Labels) -> tuple[npt.NDArray[np.int64], Labels]:
    """Return label values ``ids`` and an index image with ``ids[index] == label``, cheap to count with ``bincount``.

    ``ids[0]`` is 0 (background). Small label values are their own indices, so some ids may occur nowhere.
    """
    highest = int(label.max(initial=0))
    if highest < 1 << 20:
        return np.arange(highest + 1), label
    ids, index = np.unique(np.append(label.ravel(), 0), return_inverse=True)
    return ids.astype(np.int64), index[:-1].reshape(label.shape)


def overlaps(gold: Labels, silver: Labels) -> list[tuple[int, int, int]]:
    """Return (gold index, silver index, shared px) of all pairs that share pixels; both images as from `compact`."""
    both = (gold > 0) & (silver > 0)
    stride = int(silver.max(initial=0)) + 1
    pairs, counts = np.unique(gold[both].astype(np.int64) * stride + silver[both], return_counts=True)
    return [(int(p) // stride, int(p) % stride, int(n)) for p, n in zip(pairs, counts, strict=True)]


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


def field_of_interest(shape: tuple[int, int], band: int) -> BoolArray:
    """Return True for pixels at least ``band`` px from the frame's edge, (row, col)."""
    inner = np.zeros(shape, bool)
    if 2 * band < min(shape):
        inner[band : shape[0] - band, band : shape[1] - band] = True
    return inner


def apply_field_of_interest(label: Labels, band: int) -> Labels:
    """Return the labels without the objects that lie wholly in the outer band of ``band`` px.

    Design, measuring rule 6: they carry no label and count neither way; one with a pixel further in stays whole.
    """
    if band == 0:
        return label
    ids, index = compact(label)
    inner = field_of_interest((label.shape[0], label.shape[1]), band)
    outside = np.bincount(index.ravel(), minlength=ids.size) > 0
    outside &= np.bincount(index[inner], minlength=ids.size) == 0
    outside[0] = False
    return np.where(outside[index], 0, label).astype(np.int32) if outside.any() else label


def valid_pixels(label: Labels | None, shape: tuple[int, int], band: int, *, partial: bool) -> BoolArray:
    """Return where the labels say something, bool (row, col).

    Without labels nowhere; on partial truth on labelled pixels only, since unlabelled ground may be a cell that nobody
    drew; else everywhere but on unlabelled pixels of the outer band, where cells carry no label.
    """
    if label is None:
        return np.zeros(shape, bool)
    if partial:
        return np.asarray(label > 0)
    return field_of_interest(shape, band) | np.asarray(label > 0)
