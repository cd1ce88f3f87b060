"""A cell with its surroundings: what prompts are drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.errors import PromptError
from hela_store.images.rle import bbox
from hela_store.metrics.boundaries import signed_distance
from hela_store.metrics.overlap import equivalent_diameter

CONTEXT_DIAMETERS = 1.5
"""How much of its surroundings a cell is given on each side, in cell diameters: a neighbour it may be merged with."""
NEAR = 0.6
"""What is looked at where no neighbour matters, in the same way."""


@dataclass(frozen=True, kw_only=True)
class CellContext:
    """One cell in a crop of its frame's labels.

    What is costly is computed once, when first asked for.

    Attributes
    ----------
    cell : str
        Cell id, ``"01/t012#17"``.
    label : int
        Its value in ``labels``.
    labels : integer, (row, col)
        Crop of the frame, ending at the frame's borders; holds the whole cell.
    origin : (int, int)
        ``(x, y)`` px, frame, of the crop's first pixel.
    frame_shape : (int, int)
        ``(rows, cols)`` px.
    """

    cell: str
    label: int
    labels: LabelArray
    origin: tuple[int, int]
    frame_shape: tuple[int, int]

    @cached_property
    def mask(self) -> BoolArray:
        """The cell in the crop: bool, (row, col)."""
        found: BoolArray = self.labels == self.label
        if self.label == 0 or not found.any():
            raise _missing(self.cell, self.label)
        return found

    @cached_property
    def area(self) -> int:
        """Pixels of the cell."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def diameter(self) -> float:
        """Equivalent diameter, px."""
        return equivalent_diameter(self.area)

    @cached_property
    def box(self) -> npt.NDArray[np.float64]:
        """Bounding box, float64, (4,), ``(x0, y0, x1, y1)`` px, frame."""
        return np.asarray(bbox(self.mask, self.origin), float)

    @cached_property
    def centroid(self) -> tuple[float, float]:
        """Mean of the cell's pixels, ``(x, y)`` px, of the crop."""
        rows, columns = np.nonzero(self.mask)
        return float(columns.mean()), float(rows.mean())

    @cached_property
    def near(self) -> tuple[slice, slice]:
        """Rows and columns of the crop within ``NEAR`` diameters of the cell's box."""
        margin = math.ceil(NEAR * self.diameter) + 2
        x0, y0, x1, y1 = bbox(self.mask)
        height, width = self.mask.shape
        rows = slice(max(y0 - margin, 0), min(y1 + margin, height))
        return rows, slice(max(x0 - margin, 0), min(x1 + margin, width))

    @cached_property
    def distance(self) -> npt.NDArray[np.float32]:
        """Signed distance to the cell's edge, float32, (row, col) of :attr:`near`, px.

        Positive inside, zero between two pixels. A border of the frame is no edge: a cell that touches it is taken to
        go on beyond.
        """
        return signed_distance(self.mask[self.near])

    @cached_property
    def gaps(self) -> dict[int, float]:
        """Background px between the cell and each near neighbour, by label; 0 where they touch."""
        labels = self.labels[self.near]
        other = (labels != 0) & (labels != self.label)
        found, index = np.unique(labels[other], return_inverse=True)
        nearest = np.full(len(found), np.inf)
        np.minimum.at(nearest, index, -self.distance[other].astype(float))
        return {int(k): max(0.0, float(away) - 0.5) for k, away in zip(found, nearest, strict=True)}

    @cached_property
    def _wide(self) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
        return {}

    def wide_distance(self, label: int, stride: int = 1) -> npt.NDArray[np.float32]:
        """Return the signed distance to the edge of this cell or a neighbour, over the whole crop.

        Parameters
        ----------
        label : int
            A label of the crop.
        stride : int
            Look at every ``stride``-th pixel only; distances are in px all the same, right to about half a stride.

        Returns
        -------
        float32, (row, col), px
        """
        key = (label, stride)
        if key not in self._wide:
            self._wide[key] = signed_distance(self.labels[::stride, ::stride] == label) * np.float32(stride)
        return self._wide[key]


def _missing(cell: str, label: int) -> PromptError:
    return PromptError(f"cell {cell} has no pixel with label {label}; is the label image the right one?")


def cell_contexts(
    labels: LabelArray,
    cells: Mapping[int, str],
    origin: tuple[int, int] = (0, 0),
    frame_shape: tuple[int, int] | None = None,
) -> Iterator[CellContext]:
    """Crop cells with their surroundings from a label image.

    Parameters
    ----------
    labels : integer, (row, col)
        A frame, or a part of it.
    cells : mapping of label to cell id
        The cells asked for.
    origin : (int, int)
        ``(x, y)`` px, frame, of the label image's first pixel.
    frame_shape : (int, int), optional
        ``(rows, cols)`` of the frame; by default that of ``labels``.

    Yields
    ------
    CellContext
        In the order of ``cells``.

    Raises
    ------
    PromptError
        A label has no pixel here.
    """
    shape = frame_shape or (labels.shape[0], labels.shape[1])
    places = ndimage.find_objects(labels)
    for label, cell in cells.items():
        place = places[label - 1] if 0 < label <= len(places) else None
        if place is None:
            raise _missing(cell, label)
        yield _crop(labels, label, cell, place, origin, shape)


def cell_context(
    labels: LabelArray,
    label: int,
    cell: str,
    box: tuple[int, int, int, int],
    origin: tuple[int, int] = (0, 0),
    frame_shape: tuple[int, int] | None = None,
) -> CellContext:
    """Crop one cell whose ``box``, ``(x0, y0, x1, y1)`` px, frame, is known; else as :func:`cell_contexts`."""
    x0, y0, x1, y1 = box
    place = (slice(y0 - origin[1], y1 - origin[1]), slice(x0 - origin[0], x1 - origin[0]))
    return _crop(labels, label, cell, place, origin, frame_shape or (labels.shape[0], labels.shape[1]))


def _crop(
    labels: LabelArray,
    label: int,
    cell: str,
    place: tuple[slice, slice],
    origin: tuple[int, int],
    frame_shape: tuple[int, int],
) -> CellContext:
    rows, columns = place
    area = int(np.count_nonzero(labels[rows, columns] == label))
    margin = math.ceil(CONTEXT_DIAMETERS * equivalent_diameter(area)) + 2
    y0, x0 = max(rows.start - margin, 0), max(columns.start - margin, 0)
    crop = labels[y0 : rows.stop + margin, x0 : columns.stop + margin].copy()
    return CellContext(
        cell=cell, label=label, labels=crop, origin=(origin[0] + x0, origin[1] + y0), frame_shape=frame_shape
    )
