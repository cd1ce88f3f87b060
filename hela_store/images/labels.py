"""The algebra of label images: compact numbers, overlaps, field of interest, valid pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hela_store.base.aliases import BoolArray

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
