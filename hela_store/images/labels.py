"""The algebra of label images: compact numbers, shared pixels, field of interest, valid pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class SharedPixels:
    """The objects of two label images of one frame, and the pairs of them that share pixels.

    Attributes
    ----------
    first_labels, second_labels : int64, (objects,), label values in rising order
    first_areas, second_areas : int64, (objects,), px
    first, second : int64, (pairs,), indices into the labels above; pairs are ordered by ``first``, then ``second``
    shared : int64, (pairs,), px
    """

    first_labels: npt.NDArray[np.int64]
    second_labels: npt.NDArray[np.int64]
    first_areas: npt.NDArray[np.int64]
    second_areas: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]

    @property
    def ious(self) -> npt.NDArray[np.float64]:
        """IoU of each pair, float64, (pairs,)."""
        union = self.first_areas[self.first] + self.second_areas[self.second] - self.shared
        result: npt.NDArray[np.float64] = self.shared / union
        return result

    def table(self) -> npt.NDArray[np.float64]:
        """Return the IoU of every first object with every second one, float64, (first, second)."""
        table = np.zeros((len(self.first_labels), len(self.second_labels)))
        table[self.first, self.second] = self.ious
        return table

    def take(self, kept: BoolArray | npt.NDArray[np.int64]) -> SharedPixels:
        """Return the same objects with some of the pairs, by mask or index."""
        return replace(self, first=self.first[kept], second=self.second[kept], shared=self.shared[kept])


def shared_pixels(first: Labels, second: Labels) -> SharedPixels:
    """Count the pixels that objects of two label images share; integer, (row, col), of one shape, 0 background."""
    first_labels, first_areas, first_index = _objects(first)
    second_labels, second_areas, second_index = _objects(second)
    both = (first_index > 0) & (second_index > 0)
    stride = len(second_labels) + 1
    pairs, shared = np.unique(first_index[both] * stride + second_index[both], return_counts=True)
    return SharedPixels(
        first_labels=first_labels,
        second_labels=second_labels,
        first_areas=first_areas,
        second_areas=second_areas,
        first=pairs // stride - 1,
        second=pairs % stride - 1,
        shared=shared,
    )


def _objects(label: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the label values of the objects, their areas, and the image with their numbers, 1 to n."""
    values = np.unique(label[label != 0])
    # searching the foreground alone is several times faster than np.unique(..., return_inverse=True) on all
    index = np.zeros(label.shape, np.int64)
    index[label != 0] = np.searchsorted(values, label[label != 0]) + 1
    return values.astype(np.int64), np.bincount(index.ravel(), minlength=len(values) + 1)[1:], index


def field_of_interest(shape: tuple[int, int], band: int) -> BoolArray:
    """Return True for pixels at least ``band`` px from the frame's edge, (row, col)."""
    inner = np.zeros(shape, bool)
    if 2 * band < min(shape):
        inner[band : shape[0] - band, band : shape[1] - band] = True
    return inner


def apply_field_of_interest(label: Labels, band: int) -> Labels:
    """Return the labels without the objects that lie wholly in the outer band of ``band`` px.

    Rule "valid pixels": they carry no label and count neither way; one with a pixel further in stays whole.
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
