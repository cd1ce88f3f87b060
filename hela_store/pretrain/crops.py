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
from hela_store.images.geometry import EMBEDDING_POSITIONS
from hela_store.prompts.context import cell_context
from hela_store.prompts.degraded import draw_degraded_mask
from hela_store.sam.decoder import LOGITS, POSITION

from .sources import Source

FINE = 2
"""SAM input px per truth pixel."""
SMALLEST, LARGEST = 20.0, 420.0
"""Median cell diameters that training covers, SAM input px."""
COMMON = 45.0
"""The commonest in crops of 256 px: a nucleus of 22 px in a 512-px tile. Larger crops are there for large cells."""
MOST_UPSAMPLING = 6.0
NATURAL_SCALE = 2.0
"""SAM input px per source pixel at which textures look as they do in a 512-px tile."""
CANDIDATES = 6
"""Sources drawn for a crop of large cells; the one that needs the least upsampling beyond the natural scale is cut."""
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


def draw_diameter(rng: np.random.Generator, size: int) -> float:
    """Draw the median cell diameter of a crop of ``size`` SAM input px."""
    most = min(LARGEST, size * 0.6)
    return float(np.exp(rng.triangular(np.log(SMALLEST), np.log(COMMON * (size / 256) ** 1.4), np.log(most))))


def draw_source(rng: np.random.Generator, pool: Sequence[Source], diameter: float) -> Source:
    """Draw a source whose cells can be shown at ``diameter`` without much upsampling."""
    drawn = [pool[int(rng.integers(len(pool)))] for _ in range(CANDIDATES)]
    return min(drawn, key=lambda source: max(NATURAL_SCALE, diameter / source.diameter))


def draw_crop(
    rng: np.random.Generator, source: Source, size: int, diameter: float
) -> tuple[Tensor, npt.NDArray[np.int32]]:
    """Cut a randomly placed, turned and mirrored square out of a source, its cells ``diameter`` px across.

    Returns
    -------
    image : float32, (size, size), 0..255
    label : int32, (size / 2, size / 2)
    """
    scale = min(diameter / source.diameter, MOST_UPSAMPLING)
    scale = max(scale, 0.75 * size / max(source.image.shape), 0.3)
    height, width = source.image.shape
    rows, columns = np.nonzero(source.label)
    pick = rng.integers(len(rows))
    jitter = rng.uniform(-0.4, 0.4, 2) * size / scale
    middle = np.array([columns[pick], rows[pick]]) + jitter
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
    return _expose(rng, cut), label


def _expose(rng: np.random.Generator, image_HW: Tensor) -> Tensor:
    low, high = rng.uniform(0, 0.06), rng.uniform(0.6, 1.1)
    image = ((image_HW - low) / (high - low)).clamp(0, 1) ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.3:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + noise * float(rng.uniform(0, 0.06))
    if rng.random() < 0.05:
        image = 1 - image
    floor, peak = rng.uniform(0, 0.1), rng.uniform(0.7, 1.0)
    return (floor + image.clamp(0, 1) * (peak - floor)) * 255


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
        if (label[rows, columns] == cell).sum() >= 40 and not (cut and rng.random() < WHOLE_SHARE):
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
    jitter = 0.0 if rng.random() < 0.25 else rng.uniform(0, 0.1)
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


def draw_batch(
    key: tuple[int | str, ...], sources: Sequence[Sequence[Source]], sizes: tuple[int, int], most: int
) -> TrainingBatch:
    """Draw the batch that belongs to ``key``: crops in turn from each list of sources.

    Parameters
    ----------
    key : of the counter-based generator
    sources : lists, e.g. drawn scenes and stills
    sizes : number of crops, edge length in SAM input px
    most : prompts a crop
    """
    rng = generator(*key)
    count, size = sizes
    windows = [w for w in WINDOWS if w <= size // POSITION]
    # mostly the smallest window that holds a prompt; else all prompts of the batch get a wider one
    windows = windows[min(int(rng.geometric(0.6)) - 1, len(windows) - 1) :]
    # the cost of a prompt grows with the area of its window
    most = max(4, most * 16 // max(16, windows[0]))
    images: list[Tensor] = []
    drawn: list[_Drawn] = []
    while len(images) < count:
        pool = sources[len(images) % len(sources)]
        diameter = draw_diameter(rng, size)
        image, label = draw_crop(rng, draw_source(rng, pool, diameter), size, diameter)
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
