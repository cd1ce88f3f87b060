"""The image, labels and geometry of one view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.images.geometry import Rect

if TYPE_CHECKING:
    from hela_store.augment.warp import Warp


@dataclass(frozen=True, kw_only=True)
class ViewData:
    """Image, labels and valid pixels of a view.

    Attributes
    ----------
    view : str
        View id.
    image : (row, col), counts
        In the frame's dtype as acquired; float32, before normalisation, of a variant.
    label : int32, (row, col)
        0 is background; all 0 where the frame has no labels.
    valid : bool, (row, col)
        Where labels say something.
    rect : (x0, y0, width, height) px, frame
    params : dict
        What the variant was made with; empty for the view as acquired.
    frame_shape : (rows, cols) px
    """

    view: str
    image: npt.NDArray[Any]
    label: LabelArray
    valid: BoolArray
    rect: Rect
    params: dict[str, Any]
    frame_shape: tuple[int, int]

    @property
    def warp(self) -> Warp:
        """The view's geometry: brings points and masks from the frame to the view and back."""
        from hela_store.augment.variant import parse_variant
        from hela_store.augment.warp import Warp

        return Warp(parse_variant(self.params), self.rect, self.frame_shape)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Label, area, box and centroid of each cell, measured in ``label``; px, view."""
        from hela_store.augment.labels import view_cells

        return view_cells(self.label)
