"""From prompts in SAM's input of a whole image to the decoder's answers, whatever tiles the image has.

Coordinates and grids are those of ``SamPredictor``: the image's long side is 1024 px of SAM's input and 256 logits.
In an image of several tiles each prompt is brought to the one that holds it best, and answers are brought back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hela_store.base.aliases import FloatArray
from hela_store.errors import PromptError
from hela_store.images.geometry import EMBEDDING_POSITIONS, MASK_GRID, SAM_INPUT, Rect, resized_shape, scoring_tiles
from hela_store.prompts.logits import LOGIT
from hela_store.sam.decoder import SamDecoder, SamPrompts
from hela_store.sam.predict import Answer, decode_growing, frame_mask, whole_plane, window_sizes

from .checks import checked_boxes, checked_points


def _scale(shape: tuple[int, int]) -> FloatArray:
    """Return SAM input px per px, ``(x, y)``, of a view of so many rows and columns, as ``ResizeLongestSide`` does."""
    rows, cols = resized_shape(shape)
    return np.array([cols / shape[1], rows / shape[0]])


@dataclass(frozen=True, kw_only=True)
class ImagePrompts:
    """Prompts of B objects in SAM's input of a whole image, as ``SamPredictor.predict_torch`` takes them.

    Attributes
    ----------
    shape : (rows, cols) of the image, px
    points : (B, N, 2) ``(x, y)``, or None
    labels : (B, N), or None
    boxes : (B, 4) ``(x0, y0, x1, y1)``, or None
    masks : (B, 1, 256, 256) logits, or None
    """

    shape: tuple[int, int]
    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    masks: Tensor | None

    def __len__(self) -> int:
        return next(len(part) for part in (self.points, self.boxes, self.masks) if part is not None)

    def check(self) -> None:
        """Raise PromptError where there is no prompt, or one of another shape or outside of the image."""
        parts = {"point_coords": self.points, "boxes": self.boxes, "mask_input": self.masks}
        given = {name: part for name, part in parts.items() if part is not None}
        if not given:
            raise PromptError("no prompt, expected at least one of points, a box and a mask_input")
        if self.points is not None:
            checked_points(_pixels(self.points, self.shape), self.labels, self.shape)
        if self.boxes is not None:
            checked_boxes(_pixels(self.boxes, self.shape), self.shape)
        if self.masks is not None and tuple(self.masks.shape[1:]) != (1, MASK_GRID, MASK_GRID):
            raise PromptError(
                f"mask_input has shape {tuple(self.masks.shape)}, expected logits on a grid of 256 x 256 for each "
                "object: (1, 256, 256) for predict, (B, 1, 256, 256) for predict_torch"
            )
        if self.masks is not None and not torch.isfinite(self.masks).all():
            raise PromptError("mask_input has NaN or infinite values, expected finite logits")
        if len({len(part) for part in given.values()}) > 1:
            found = ", ".join(f"{len(part)} of {name}" for name, part in given.items())
            raise PromptError(f"prompts of different numbers of objects: {found}; expected the same first axis")

    def homes(self, tiles: Sequence[Rect]) -> npt.NDArray[np.int64]:
        """Return the tile that answers each prompt, int64, (B,).

        Raises PromptError where a prompt does not say where in the image it is.
        """
        if len(tiles) == 1:
            return np.zeros(len(self), np.int64)
        if self.boxes is not None:
            spans = list(_pixels(self.boxes, self.shape).reshape(-1, 4))
        else:
            spans = [self._clicked(i) for i in range(len(self))]
        return scoring_tiles(spans, tiles, self.shape)

    def _clicked(self, i: int) -> FloatArray:
        if self.points is not None and self.labels is not None and (self.labels[i] == 1).any():
            points = _pixels(self.points[i], self.shape)[(self.labels[i] == 1).cpu().numpy()]
            return np.concatenate([points.min(0), points.max(0)]) + 0.5
        raise PromptError(
            "a prompt in an image of several tiles needs a click in the object or a box, so that it is known where to "
            "look; give one, or load the predictor with hs.load(..., tile=0) to see images whole"
        )

    def in_tile(self, members: npt.NDArray[np.int64], tiles: Sequence[Rect], tile: int) -> SamPrompts:
        """Return some of the prompts in SAM's input of a tile."""
        index = torch.from_numpy(members)
        points, labels, boxes, masks = (
            None if part is None else part[index.to(part.device)]
            for part in (self.points, self.labels, self.boxes, self.masks)
        )
        if len(tiles) > 1:
            rect = tiles[tile]
            points = None if points is None else _moved(points, self.shape, rect)
            boxes = None if boxes is None else _moved(boxes, self.shape, rect)
            masks = None if masks is None else self._cut(masks, rect)
        floats = [None if part is None else part.float() for part in (points, labels, boxes, masks)]
        return SamPrompts(points=floats[0], point_labels=floats[1], boxes=floats[2], masks=floats[3])

    def _cut(self, masks: Tensor, rect: Rect) -> Tensor:
        found = resampled(masks[:, 0].cpu().numpy(), (0, 0, self.shape[1], self.shape[0]), rect)
        if not (found > 0).any((1, 2)).all():
            raise PromptError(
                "mask_input shows nothing where the click or box is: one of its 256 x 256 values stands for "
                f"{max(self.shape) / MASK_GRID:.1f} px of this image; leave mask_input out"
            )
        return torch.from_numpy(found)[:, None]


def _pixels(sam: Tensor, shape: tuple[int, int]) -> FloatArray:
    """Bring points, (..., 2), or boxes, (..., 4), from SAM's input to px of the image."""
    values = sam.detach().cpu().double().numpy()
    found: FloatArray = values / np.tile(_scale(shape), values.shape[-1] // 2)
    return found


def _moved(sam: Tensor, shape: tuple[int, int], rect: Rect) -> Tensor:
    """Bring points or boxes from SAM's input of the image to that of a tile of it."""
    times = sam.shape[-1] // 2
    pixels = _pixels(sam, shape) - np.tile(np.array(rect[:2], float), times)
    return torch.from_numpy(pixels * np.tile(_scale((rect[3], rect[2])), times))


def answer_prompts(
    decoder: SamDecoder, tokens: Tensor, prompts: SamPrompts, window: int, multimask: bool
) -> list[Answer]:
    """Decode prompts of one tile; masks are in the decoder's own order, and none is cut at its window's edge.

    Parameters
    ----------
    decoder : on the device of ``tokens``
    tokens : float32, (4096, 256), as :func:`hela_store.sam.decoder.view_tokens` gives them
    prompts : in SAM's input of the tile
    window : positions along each side that a prompt reads at least
    multimask : three masks instead of one
    """
    prompts = prompts.to(tokens.device)
    sizes = window_sizes(prompts, window)
    if prompts.boxes is None and prompts.masks is None and prompts.point_labels is not None:
        # clicks on background alone say nothing of where the object is
        sizes[~(prompts.point_labels == 1).any(1).cpu().numpy()] = EMBEDDING_POSITIONS
    return decode_growing(decoder, tokens, prompts, sizes, multimask, every=True)


def image_planes(answer: Answer, tiles: Sequence[Rect], tile: int, shape: tuple[int, int]) -> Tensor:
    """Return the low-resolution logits of an answer on the grid of the whole image, float32, (M, 256, 256)."""
    planes = np.stack([whole_plane(plane, answer.corner) for plane in answer.planes])
    if len(tiles) > 1:
        planes = resampled(planes, tiles[tile], (0, 0, shape[1], shape[0]))
    return torch.from_numpy(planes)


def draw_masks(out: Tensor, answer: Answer, rect: Rect) -> None:
    """Write the masks of an answer into ``out``, bool, (M, row, col) of the image."""
    out.zero_()
    for plane, target in zip(answer.planes, out, strict=True):
        mask, (x, y) = frame_mask(plane, answer.corner, rect, rounded=True)
        target[y : y + mask.shape[0], x : x + mask.shape[1]] = torch.from_numpy(mask)


def draw_logits(out: Tensor, answer: Answer, rect: Rect) -> None:
    """Write the logits of an answer into ``out``, float32, (M, row, col) of the image; outside of its tile is -10."""
    out.fill_(-LOGIT)
    x, y, width, height = rect
    rows, cols = resized_shape((height, width))
    planes = torch.from_numpy(np.stack([whole_plane(plane, answer.corner) for plane in answer.planes]))[None]
    whole = interpolate(planes, (SAM_INPUT, SAM_INPUT), mode="bilinear", align_corners=False)[..., :rows, :cols]
    out[:, y : y + height, x : x + width] = interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0]


def resampled(planes: npt.NDArray[np.float32], source: Rect, target: Rect) -> npt.NDArray[np.float32]:
    """Bring logits from the 256x256 grid of one rectangle of an image to that of another.

    Linear interpolation where the target's grid is finer, triangular averages where it is coarser.

    Parameters
    ----------
    planes : float32, (M, 256, 256)
    source, target : ``(x0, y0, width, height)`` px, image; the long side of each is 256 grid points

    Returns
    -------
    float32, (M, 256, 256)
        -10 beyond either rectangle.
    """
    rows, in_rows = _weights(source, target, 1)
    columns, in_columns = _weights(source, target, 0)
    found = np.einsum("jr,mrc,kc->mjk", rows, planes, columns, optimize=True)
    return np.where(in_rows[:, None] & in_columns[None], found, np.float32(-LOGIT)).astype(np.float32)


def _weights(source: Rect, target: Rect, axis: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    (from_step, from_place), (to_step, to_place) = _grid(source, axis), _grid(target, axis)
    low = max(source[axis], target[axis])
    high = min(source[axis] + source[axis + 2], target[axis] + target[axis + 2])
    inside = (to_place >= low) & (to_place <= high)
    weight = (1 - np.abs(to_place[:, None] - from_place[None]) / max(from_step, to_step)).clip(0)
    # no weight on what lies in the padding of the source
    weight[:, from_place > source[axis] + source[axis + 2]] = 0
    total = weight.sum(1, keepdims=True)
    return (weight / np.maximum(total, 1e-9)).astype(np.float32), np.asarray(inside & (total[:, 0] > 0))


def _grid(rect: Rect, axis: int) -> tuple[float, FloatArray]:
    """Return px per grid point, and where the points' centres are, px from the image's edge."""
    step = max(rect[2], rect[3]) / MASK_GRID
    return step, rect[axis] + (np.arange(MASK_GRID) + 0.5) * step
