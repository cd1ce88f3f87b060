"""One warp from a view to its frame: every geometric step composed into one sampling grid over the whole frame.

The grid is made and the image sampled on the CPU whatever the device of the encoder, so that images, labels, points
and replays share the very bits. ``q = centre + L (p - centre) - shift + damping u(p)`` brings a point ``p`` of the
view (in frame px before the warp) to the point ``q`` of the frame it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.base.aliases import BoolArray, FloatArray, LabelArray
from hela_store.images.geometry import Rect

from . import elastic
from .labels import fragments, pixel_index, warp_labels
from .variant import Variant, parse_variant

if TYPE_CHECKING:
    import torch

NEWTON_STEPS = 30
CLOSE = 1e-4
"""px by which an inverse may be off."""


@dataclass(frozen=True)
class Warp:
    """The geometry of one variant of one view.

    Attributes
    ----------
    variant : Variant
    rect : of the view, ``(x0, y0, width, height)`` px, frame
    frame_shape : (rows, cols) px
    """

    variant: Variant
    rect: Rect
    frame_shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the view, px."""
        return self.rect[3], self.rect[2]

    @cached_property
    def field(self) -> elastic.Field:
        """Elastic displacement with its damping, float32, (2, row, col) x and y, px."""
        return self.variant.field(self.shape) * np.float32(self.variant.damping)

    @cached_property
    def grid(self) -> npt.NDArray[np.float32]:
        """Return where each pixel of the view lies in the frame, float32, (2, row, col), x and y, px."""
        height, width = self.shape
        (a, b), (c, d) = self.variant.linear
        origin = self._affine(np.zeros((1, 2)))[0]
        x, y = np.arange(width), np.arange(height)[:, None]
        grid = np.empty((2, height, width), np.float32)
        grid[0] = (origin[0] + a * x).astype(np.float32) + (b * y).astype(np.float32)
        grid[1] = (origin[1] + c * x).astype(np.float32) + (d * y).astype(np.float32)
        if self.variant.alpha:
            grid += self.field
        return grid

    @cached_property
    def beyond(self) -> BoolArray:
        """Return which pixels of the view lie beyond the frame, where it is reflected, bool, (row, col)."""
        rows, columns = self.frame_shape
        x, y = self.grid
        outside: BoolArray = (x < -0.5) | (x > columns - 0.5) | (y < -0.5) | (y > rows - 0.5)
        return outside

    def image(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what the view shows of a frame (row, col), float32, (row, col), in the frame's counts."""
        return sample_images(frame, [self])[0].numpy()

    def truth(self, label: LabelArray, valid: BoolArray) -> tuple[npt.NDArray[np.int32], BoolArray]:
        """Return the view's labels, int32, and where they say something, bool, both (row, col).

        Parameters
        ----------
        label : integer, (row, col)
            Of the whole frame.
        valid : bool, (row, col)
            Of the whole frame.
        """
        if self.variant.keeps_place:
            x0, y0, width, height = self.rect
            part = slice(y0, y0 + height), slice(x0, x0 + width)
            return label[part].astype(np.int32), valid[part].copy()
        warped = warp_labels(label, self.grid[0], self.grid[1])
        fragment = fragments(warped, label, self.jacobian(np.flatnonzero(warped)), self.variant.keep)
        warped[fragment] = 0
        known = valid.ravel().take(pixel_index(self.grid[0], self.grid[1], valid.shape))
        return warped, known & ~self.beyond & ~fragment

    def jacobian(self, index: npt.NDArray[np.int64]) -> FloatArray:
        """Return the frame px^2 under those pixels of the view whose flat indices are given, float, (N,)."""
        height, width = self.shape
        row, column = np.divmod(index, width)
        left, right = np.maximum(column - 1, 0), np.minimum(column + 1, width - 1)
        above, below = np.maximum(row - 1, 0), np.minimum(row + 1, height - 1)
        flat, base = self.grid.reshape(2, -1), row * width
        across = (flat[:, base + right] - flat[:, base + left]) / np.maximum(right - left, 1)
        down = (flat[:, below * width + column] - flat[:, above * width + column]) / np.maximum(below - above, 1)
        return np.abs(across[0] * down[1] - down[0] * across[1])

    def to_frame(self, xy: npt.ArrayLike) -> FloatArray:
        """Bring points, (..., 2) ``(x, y)`` px, from the view to the frame."""
        points = np.asarray(xy, float)
        flat = points.reshape(-1, 2)
        found = self._affine(flat)
        if self.variant.alpha:
            found = found + self._field_at(flat)
        return found.reshape(points.shape)

    def to_view(self, xy: npt.ArrayLike) -> FloatArray:
        """Bring points, (..., 2) ``(x, y)`` px, from the frame to the view; undoes :meth:`to_frame` to 1e-3 px.

        Of points that the view does not show the result is outside of it, and approximate.
        """
        points = np.asarray(xy, float)
        wanted = points.reshape(-1, 2)
        inverse = np.linalg.inv(self.variant.linear)
        found = (wanted - self._affine(np.zeros((1, 2)))) @ inverse.T
        if not self.variant.alpha:
            return found.reshape(points.shape)
        slopes = [np.gradient(part, axis=axis) for part in self.field for axis in (1, 0)]
        for _ in range(NEWTON_STEPS):
            off = wanted - self._affine(found) - self._field_at(found)
            if np.abs(off).max(initial=0) < CLOSE:
                break
            bent = np.stack([_bilinear(part, found) for part in slopes], -1).reshape(-1, 2, 2)
            found = found + np.linalg.solve(self.variant.linear + bent, off[..., None])[..., 0]
        return found.reshape(points.shape)

    def labels_to_frame(self, label: LabelArray) -> npt.NDArray[np.int32]:
        """Bring a mask or labels of the view, (row, col), back onto the frame, int32, 0 where it shows nothing."""
        rows, columns = self.frame_shape
        low = np.clip(np.floor(self.grid.min((1, 2))).astype(int) - 1, 0, [columns, rows])
        high = np.clip(np.ceil(self.grid.max((1, 2))).astype(int) + 2, 0, [columns, rows])
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
        out = np.zeros(self.frame_shape, np.int32)
        if x.size:
            out[low[1] : high[1], low[0] : high[0]] = warp_labels(
                label, *np.moveaxis(self.to_view(np.stack([x, y], -1)), -1, 0)
            )
        return out

    def _affine(self, xy: FloatArray) -> FloatArray:
        x0, y0, width, height = self.rect
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = np.array([self.variant.shift_x, self.variant.shift_y])
        return (xy - middle) @ self.variant.linear.T + middle + [x0, y0] - shift

    def _field_at(self, xy: FloatArray) -> FloatArray:
        return np.stack([_bilinear(part, xy) for part in self.field], -1)


def warp_of(params: str, rect: Rect, frame_shape: tuple[int, int]) -> Warp:
    """Return the geometry of a view.

    Parameters
    ----------
    params : str
        The variant's parameters as JSON, as they stand in the plan.
    rect : tuple of int
        ``(x0, y0, width, height)`` px, frame.
    frame_shape : tuple of int
        Rows and columns, px.
    """
    return Warp(parse_variant(params), rect, frame_shape)


def _bilinear(part: npt.NDArray[np.float32], xy: FloatArray) -> FloatArray:
    found: FloatArray = ndimage.map_coordinates(part.astype(float), xy.T[::-1], order=1, mode="nearest")
    return found


def sample_images(frame: npt.NDArray[Any] | torch.Tensor, warps: Sequence[Warp]) -> torch.Tensor:
    """Sample a frame for several views of one size, bilinearly and once; beyond its borders it is reflected.

    Parameters
    ----------
    frame : (row, col), counts
    warps : of this frame, one shape

    Returns
    -------
    float32, (B, H, W)
    """
    import torch
    from torch.nn.functional import grid_sample

    rows, columns = frame.shape
    image = torch.as_tensor(np.asarray(frame, np.float32) if isinstance(frame, np.ndarray) else frame)
    out = torch.empty((len(warps), *warps[0].shape), dtype=torch.float32)
    moving = [i for i, warp in enumerate(warps) if not warp.variant.keeps_place]
    for i, warp in enumerate(warps):
        if warp.variant.keeps_place:
            x0, y0, width, height = warp.rect
            out[i] = image[y0 : y0 + height, x0 : x0 + width]
    if moving:
        grids = np.empty((len(moving), *warps[0].shape, 2), np.float32)
        for axis, length in enumerate((columns, rows)):
            for j, i in enumerate(moving):
                grids[j, ..., axis] = warps[i].grid[axis] * np.float32(2 / max(length - 1, 1)) - 1
        where = torch.from_numpy(grids)
        frames = image[None, None].expand(len(moving), 1, rows, columns)
        found = grid_sample(frames, where, mode="bilinear", padding_mode="reflection", align_corners=True)
        out[torch.tensor(moving)] = found[:, 0]
    return out
