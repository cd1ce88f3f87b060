"""Training crops of SAM's 1024x1024 input, their cells, and a first prompt for each.

A crop is drawn at the scale it would have in a whole view and is given a random place in the 64x64 grid, so that the
decoder sees coordinates from all over the input although only 256 or 512 px of it are ever encoded.

Coordinates are SAM input px of the *crop* unless said otherwise; truth is kept at half that resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from hela_store.base.rng import generator
from hela_store.images.geometry import EMBEDDING_POSITIONS, SAM_INPUT
from hela_store.prompts.context import cell_context
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.sam.decoder import LOGITS, POSITION

from .photograph import photograph
from .sources import Pool, Source

FINE = 2
"""SAM input px per truth pixel."""
SMALLEST, LARGEST = 10.0, 500.0
"""Drawn cell diameters, SAM input px; in views of whole frames cells may be larger."""
COMMON = 45.0
"""The commonest in crops of 256 px: a nucleus of 22 px in a 512-px tile. Larger crops are there for large cells."""
MOST_UPSAMPLING = 6.0
NATURAL_SCALE = 2.0
"""SAM input px per source pixel at which textures look as they do in a 512-px tile."""
OUTSIDE = 0.2
"""Most of a half crop that lies outside of a frame that could fill it."""
VIEW_SHARE = 0.55
"""Part of the crops at the scale of a whole frame or of a 512-px tile; the others show cells of a drawn diameter."""
WINDOWS = (8, 16, 32, 64)
KINDS = ("box", "point", "mask")
WHOLE_SHARE = 0.9
"""Part of the prompted cells that lie wholly in the crop."""


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """Prompts of one kind with windows of one size, over all crops of a batch.

    Attributes
    ----------
    kind : "box", "point" or "mask"
    window : positions along each side
    image : int64, (B,), which crop
    local : int64, (B, 2), ``(x, y)`` of the window within the crop, positions
    origins : int64, (B, 2), ``(x, y)`` of the window within the 64x64 grid, positions
    boxes : float32, (B, 4), global SAM input px
    points : float32, (B, 2), global SAM input px
    masks : bool, (B, 4 window, 4 window), a degraded truth
    truth : uint8, (B, 8 window, 8 window)
    """

    kind: str
    window: int
    image: Tensor
    local: Tensor
    origins: Tensor
    boxes: Tensor
    points: Tensor
    masks: Tensor
    truth: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Crops, float32, (B, 1, H, W), 0..255, and their prompts."""

    images: Tensor
    groups: tuple[PromptGroup, ...]


def draw_scale(rng: np.random.Generator, source: Source, cell: int, size: int) -> float:
    """Draw SAM input px per source pixel: as a view of the whole frame or of a tile has it, or for a drawn diameter.

    The cell fits into the crop, and the frame fills it but where the cell is too large for that.
    """
    _, _, width, height, diameter = (float(value) for value in source.cells[cell])
    whole = SAM_INPUT / max(source.image.shape)
    extent = max(width, height)
    if rng.random() < VIEW_SHARE:
        scale = (whole if rng.random() < 0.5 else max(whole, NATURAL_SCALE)) * float(np.exp(rng.normal(0, 0.15)))
    else:
        middle = COMMON * (size / 256) ** 1.4
        wanted = np.exp(
            rng.triangular(np.log(SMALLEST), np.log(middle), np.log(max(LARGEST * size / 1024, middle + 1)))
        )
        scale = float(np.clip(wanted / diameter, 0.3, max(MOST_UPSAMPLING, whole)))
    fits = 0.92 * size / extent
    return float(min(max(scale, 0.8 * size / max(source.image.shape), SMALLEST / diameter), fits))


def draw_crop(rng: np.random.Generator, source: Source, cell: int, size: int) -> tuple[Tensor, npt.NDArray[np.int32]]:
    """Cut a randomly placed, turned and mirrored square out of a source, around one of its cells.

    Returns
    -------
    image : float32, (size, size), 0..255
    label : int32, (size / 2, size / 2)
    """
    scale = draw_scale(rng, source, cell, size)
    x, y, cell_width, cell_height, diameter = source.cells[cell]
    height, width = source.image.shape
    # the cell stays inside where it is not turned, and little is shown of what lies outside of the frame
    room = max(0.1, 0.5 - 0.5 * max(cell_width, cell_height) * scale / size)
    jitter = rng.uniform(-room, room, 2) * size / scale
    half, sides = 0.5 * size / scale, np.array([width, height])
    nearest, farthest = np.minimum(half, sides - half), np.maximum(half, sides - half)
    middle = np.clip(np.array([x, y]) + jitter, nearest - OUTSIDE * half, farthest + OUTSIDE * half)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else rng.integers(4) * np.pi / 2
    stretch = np.exp(rng.normal(0, 0.1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([stretch * rng.choice([-1, 1]), 1 / stretch]) * size / scale
    # affine_grid maps the output square [-1, 1] to input coordinates in [-1, 1]
    theta = np.zeros((2, 3), np.float32)
    theta[:, :2] = turn / np.array([[width], [height]])
    theta[:, 2] = (2 * middle + 1) / [width, height] - 1
    image = source.image if scale > 0.7 else ndimage.gaussian_filter(source.image, 0.4 / scale)
    both = torch.from_numpy(theta)[None]
    grid = affine_grid(both, [1, 1, size, size], align_corners=False)
    cut = grid_sample(torch.from_numpy(image)[None, None], grid, "bilinear", "zeros", align_corners=False)[0, 0]
    coarse = affine_grid(both, [1, 1, size // FINE, size // FINE], align_corners=False)
    labels = torch.from_numpy(source.label.astype(np.float32))[None, None]
    label = grid_sample(labels, coarse, "nearest", "zeros", align_corners=False)[0, 0].numpy().astype(np.int32)
    outside = (grid[0].abs() > 1).any(-1) if rng.random() < 0.5 else None
    return photograph(rng, cut, float(diameter * scale), outside), label


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    kind: str
    window: int
    image: int
    local: npt.NDArray[np.int64]
    origin: npt.NDArray[np.int64]
    box: npt.NDArray[np.float32]
    point: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _Crop:
    """One crop of a batch.

    Attributes
    ----------
    label : int32, (size / 2, size / 2)
    image : which of the batch
    place : of its first embedding position in the view, (x, y)
    windows : that a prompt may read, smallest first
    """

    label: npt.NDArray[np.int32]
    image: int
    place: npt.NDArray[np.int64]
    windows: Sequence[int]


def draw_prompts(
    rng: np.random.Generator, label: npt.NDArray[np.int32], image: int, most: int, windows: Sequence[int]
) -> Iterator[_Drawn]:
    """Yield up to ``most`` prompts for the cells of one crop."""
    positions = label.shape[0] * FINE // POSITION
    place = rng.integers(0, EMBEDDING_POSITIONS - positions + 1, 2)
    crop = _Crop(label=label, image=image, place=place, windows=windows)
    boxes = ndimage.find_objects(label)
    ids = [i + 1 for i, box in enumerate(boxes) if box is not None]
    rng.shuffle(ids)
    wanted = []
    for cell in ids:
        rows, columns = boxes[cell - 1]
        cut = min(rows.start, columns.start) == 0 or max(rows.stop, columns.stop) == label.shape[0]
        if (label[rows, columns] == cell).sum() >= 20 and not (cut and rng.random() < WHOLE_SHARE):
            wanted.append(cell)
    # few cells get a prompt of every kind, many cells one each
    kinds = [str(kind) for kind in rng.permutation(KINDS)]
    for kind in kinds:
        for cell in wanted[:most]:
            yield _draw_prompt(rng, crop, kind, cell, boxes[cell - 1])
        most -= len(wanted[:most])


def _draw_prompt(rng: np.random.Generator, crop: _Crop, kind: str, cell: int, slices: tuple[slice, slice]) -> _Drawn:
    label, place = crop.label, crop.place
    rows, columns = slices
    truth = label == cell
    exact = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32) * FINE
    sides = np.tile(exact[2:] - exact[:2], 2)
    # a few boxes are far off, so that predicted IoU learns from wrong masks too
    jitter = float(rng.choice([0.0, rng.uniform(0, 0.1), rng.uniform(0.15, 0.4)], p=[0.25, 0.68, 0.07]))
    box = np.clip(exact + rng.normal(0, jitter, 4) * sides, 0, label.shape[0] * FINE)
    box[2:] = np.maximum(box[2:], box[:2] + 4)
    inner = ndimage.binary_erosion(truth[slices], border_value=0)
    inside = np.argwhere(inner if inner.any() else truth[slices])
    y, x = inside[rng.integers(len(inside))]
    point = (np.array([x + columns.start, y + rows.start]) + rng.random(2)) * FINE - 0.5
    mask = _degraded(rng, label, cell, slices) if kind == "mask" else np.zeros_like(truth)
    extent = float(sides.max()) / POSITION
    positions = label.shape[0] * FINE // POSITION
    fits = [w for w in crop.windows if w <= positions and extent <= w - 2] or [min(positions, max(crop.windows))]
    window = fits[0]
    centre = point if kind == "point" else (box[:2] + box[2:]) / 2
    local = np.clip(np.round(centre / POSITION - window / 2), 0, positions - window).astype(np.int64)
    shift = (place * POSITION).astype(np.float32)
    fine = slice(local[1] * 8, (local[1] + window) * 8), slice(local[0] * 8, (local[0] + window) * 8)
    return _Drawn(
        kind=kind,
        window=window,
        image=crop.image,
        local=local,
        origin=local + place,
        box=(box + np.tile(shift, 2) - 0.5).astype(np.float32),
        point=(point + shift).astype(np.float32),
        mask=mask[fine].reshape(window * LOGITS, 2, window * LOGITS, 2).mean((1, 3)) >= 0.5,
        truth=truth[fine].astype(np.uint8),
    )


def _degraded(
    rng: np.random.Generator, label: npt.NDArray[np.int32], cell: int, slices: tuple[slice, slice]
) -> npt.NDArray[np.bool_]:
    rows, columns = slices
    drawn = draw_degraded_mask(rng, cell_context(label, cell, "", (columns.start, rows.start, columns.stop, rows.stop)))
    x, y = drawn.origin
    mask = np.zeros(label.shape, bool)
    mask[y : y + drawn.mask.shape[0], x : x + drawn.mask.shape[1]] = drawn.mask
    return mask


def draw_batch(key: tuple[int | str, ...], pools: Sequence[Pool], sizes: tuple[int, int], most: int) -> TrainingBatch:
    """Draw the batch that belongs to ``key``: of every crop first the pool, by weight, then a cell of it.

    Parameters
    ----------
    key : of the counter-based generator
    pools : e.g. drawn scenes and folders of real images
    sizes : number of crops, edge length in SAM input px
    most : prompts a crop
    """
    rng = generator(*key)
    count, size = sizes
    weights = np.array([pool.weight for pool in pools])
    shares = weights / weights.sum()
    windows = [w for w in WINDOWS if w <= size // POSITION]
    # mostly the smallest window that holds a prompt; else all prompts of the batch get a wider one
    windows = windows[min(int(rng.geometric(0.6)) - 1, len(windows) - 1) :]
    # the cost of a prompt grows with the area of its window
    most = max(4, most * 16 // max(16, windows[0]))
    images: list[Tensor] = []
    drawn: list[_Drawn] = []
    while len(images) < count:
        pool = pools[int(rng.choice(len(pools), p=shares))]
        image, label = draw_crop(rng, *pool.draw(rng), size)
        prompts = list(draw_prompts(rng, label, len(images), most, windows))
        if prompts:
            images.append(image)
            drawn += prompts
    groups = []
    for kind, window in sorted({(d.kind, d.window) for d in drawn}):
        groups.append(_stack([d for d in drawn if (d.kind, d.window) == (kind, window)]))
    return TrainingBatch(images=torch.stack(images)[:, None], groups=tuple(groups))


def _stack(drawn: list[_Drawn]) -> PromptGroup:
    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(d, name) for d in drawn]))

    return PromptGroup(
        kind=drawn[0].kind,
        window=drawn[0].window,
        image=torch.tensor([d.image for d in drawn]),
        local=stacked("local"),
        origins=stacked("origin"),
        boxes=stacked("box"),
        points=stacked("point"),
        masks=stacked("mask"),
        truth=stacked("truth"),
    )
