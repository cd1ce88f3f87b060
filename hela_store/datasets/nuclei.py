"""Drawing primitives for synthetic cells: outlines, soft edges, textures and stamping one cell into a frame.

Everything works on small crops, one cell at a time; nothing here touches a whole frame once per cell. All random
numbers come from the generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import ndtr
from skimage.measure import label as connected_components

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

ANGLES = 1024


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Shape of a cell: an ellipse, bent, with a Fourier series on its polar radius.

    Attributes
    ----------
    radius : float
        Radius of the disc of equal area, px.
    aspect : float
        Minor over major axis, 0..1.
    angle : float
        Direction of the major axis, radians from +x towards +y.
    bend : float
        Sagitta of the long axis over the radius; 0 is straight, 0.5 a bean.
    waves : float32, (harmonic, 2)
        Cosine and sine amplitudes of harmonics 2, 3, ... relative to the radius.
    """

    radius: float
    aspect: float = 1.0
    angle: float = 0.0
    bend: float = 0.0
    waves: Array = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @cached_property
    def limits(self) -> Array:
        """Polar radius of the outline in the unit disc at `ANGLES` equally spaced angles, float32."""
        basis = _harmonics(len(self.waves))
        return np.asarray(1.0 + self.waves.reshape(-1) @ basis, dtype=np.float32)

    @property
    def reach(self) -> float:
        """Radius of a disc about the centre that holds the whole cell, px."""
        cos, sin = _unit_circle()
        limits, root = self.limits, math.sqrt(self.aspect)
        along, across = limits * cos, limits * sin * root
        across = across - self.bend * (along**2 - 0.25)
        return self.radius * float(np.hypot(along / root, across).max())


@lru_cache(maxsize=1)
def _unit_circle() -> tuple[Array, Array]:
    theta = np.arange(ANGLES, dtype=np.float32) * np.float32(2 * math.pi / ANGLES)
    return np.cos(theta), np.sin(theta)


@lru_cache(maxsize=32)
def _harmonics(count: int) -> Array:
    """Cosine and sine of harmonics 2..count+1 in turn, float32 (2 * count, ANGLES)."""
    theta = np.arange(ANGLES) * (2 * math.pi / ANGLES)
    rows = [wave(order * theta) for order in range(2, count + 2) for wave in (np.cos, np.sin)]
    return np.asarray(rows, dtype=np.float32).reshape(2 * count, ANGLES)


def random_waves(rng: np.random.Generator, roughness: float, *, harmonics: int = 6, slope: float = 1.0) -> Array:
    """Fourier amplitudes of an irregular outline, (harmonics, 2) float32; `roughness` is their rms, relative."""
    order = np.arange(2, 2 + harmonics, dtype=np.float32)[:, None]
    waves = rng.standard_normal((harmonics, 2), dtype=np.float32) * (order / 2) ** -slope
    norm = math.sqrt(float((((order / 2) ** -slope) ** 2).sum()))
    return np.asarray(waves * np.float32(roughness / norm), dtype=np.float32)


def depth_map(outline: Outline, side: int, centre: tuple[float, float]) -> Array:
    """Signed distance to the outline (first order), px, positive inside.

    Parameters
    ----------
    outline : Outline
    side : int
        Rows and columns of the crop.
    centre : (float, float)
        ``(x, y)`` px, crop, of the cell's centre.

    Returns
    -------
    float32, (side, side)
    """
    axis = np.arange(side, dtype=np.float32)
    dx, dy = (axis - centre[0])[None, :], (axis - centre[1])[:, None]
    cos, sin = math.cos(outline.angle), math.sin(outline.angle)
    root = math.sqrt(outline.aspect)
    along = (dx * cos + dy * sin) * (root / outline.radius)
    across = (dy * cos - dx * sin) / outline.radius
    if outline.bend:
        across = across + outline.bend * (along**2 - 0.25)
    across = across / root
    rho = np.hypot(along, across)
    if len(outline.waves):
        turn = np.arctan2(across, along) * np.float32(ANGLES / (2 * math.pi))
        bumps = outline.limits - 1
        limit: Array | float = 1.0 + bumps[turn.astype(np.int32) & (ANGLES - 1)] * np.minimum(rho, 1.0) ** 2
    else:
        limit = 1.0
    level = (limit - rho) * np.float32(outline.radius)
    steep = np.hypot(*_differences(np.asarray(level, dtype=np.float32)))
    return np.asarray(level / np.clip(steep, 0.4, 3.0), dtype=np.float32)


def _differences(field: Array) -> tuple[Array, Array]:
    """Central differences down and right, 1 at the border of the crop (cheaper than :func:`numpy.gradient`)."""
    down, right = np.ones_like(field), np.ones_like(field)
    down[1:-1] = 0.5 * (field[2:] - field[:-2])
    right[:, 1:-1] = 0.5 * (field[:, 2:] - field[:, :-2])
    return down, right


def soft_mask(depth: Array, blur: float) -> Array:
    """Coverage of a cell seen through a Gaussian of `blur` px, 0..1, as at a straight edge; 0.5 lies on the outline."""
    return np.asarray(ndtr(depth / np.float32(blur)), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Array:
    """Gaussian noise smoothed by `sigma` px, mean 0, rms 1, float32 of `shape`; coarse grids where sigma is large."""
    step = max(1, int(sigma / 2.0))
    rows, cols = shape[0] // step + 2, shape[1] // step + 2
    margin = 2
    noise = rng.standard_normal((rows + 2 * margin, cols + 2 * margin), dtype=np.float32)
    width = sigma / step
    noise = ndimage.gaussian_filter(noise, width, truncate=3.0)[margin:-margin, margin:-margin]
    if width > 0.5:
        noise = noise * np.float32(2.0 * math.sqrt(math.pi) * width)  # rms of filtered white noise, inverted
    if step > 1:
        noise = enlarge(noise, step, shape)
    return np.asarray(noise[: shape[0], : shape[1]], dtype=np.float32)


def enlarge(coarse: Array, step: int, shape: tuple[int, int]) -> Array:
    """Interpolate linearly between samples that lie `step` px apart, float32 of `shape`."""
    row, col = (np.arange(n, dtype=np.float32) * np.float32(1 / step) for n in shape)
    top, left = row.astype(np.intp), col.astype(np.intp)
    down, right = (row - top)[:, None], (col - left)[None, :]
    tall = coarse[top] * (1 - down) + coarse[top + 1] * down
    return np.asarray(tall[:, left] * (1 - right) + tall[:, left + 1] * right, dtype=np.float32)


def spots(
    rng: np.random.Generator, side: int, centre: tuple[float, float], *, count: int, spread: float, sigma: float
) -> Array:
    """Sum of `count` Gaussian spots of height about 1 within `spread` px of `centre`, float32 (side, side)."""
    away, angle = spread * np.sqrt(rng.random(count)), rng.uniform(0, 2 * math.pi, count)
    scale = np.sqrt(0.5) / (sigma * rng.uniform(0.7, 1.4, count))
    axis = np.arange(side)
    across = np.exp(-(((axis - (centre[0] + away * np.cos(angle))[:, None]) * scale[:, None]) ** 2))
    down = np.exp(-(((axis - (centre[1] + away * np.sin(angle))[:, None]) * scale[:, None]) ** 2))
    return np.asarray((down * rng.uniform(0.6, 1.0, count)[:, None]).T @ across, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One drawn cell.

    Attributes
    ----------
    value : float32, (side, side)
        What is seen where the cell is opaque.
    alpha : float32, (side, side)
        Coverage 0..1.
    mask : bool, (side, side)
        The pixels that are the cell's; its edge is the half height of `alpha`.
    corner : (int, int)
        ``(x, y)`` px, frame, of the first pixel.
    """

    value: Array
    alpha: Array
    mask: Mask
    corner: tuple[int, int]


def crop_frame(centre: tuple[float, float], reach: float) -> tuple[int, tuple[int, int], tuple[float, float]]:
    """Side, corner ``(x, y)`` px frame, and centre ``(x, y)`` px crop of a square crop that holds a disc of `reach`."""
    half = math.ceil(reach)
    corner = (round(centre[0]) - half, round(centre[1]) - half)
    return 2 * half + 1, corner, (centre[0] - corner[0], centre[1] - corner[1])


def clip_to(
    shape: tuple[int, int], corner: tuple[int, int], side: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Slices (frame, crop) of the part of a crop that lies in a frame of `shape`; None where nothing does."""
    x0, y0 = max(0, corner[0]), max(0, corner[1])
    x1, y1 = min(shape[1], corner[0] + side), min(shape[0], corner[1] + side)
    if x1 <= x0 or y1 <= y0:
        return None
    frame = (slice(y0, y1), slice(x0, x1))
    crop = (slice(y0 - corner[1], y1 - corner[1]), slice(x0 - corner[0], x1 - corner[0]))
    return frame, crop


class Canvas:
    """A frame under construction: signal, labels, and how much of every cell is still seen.

    Attributes
    ----------
    image : float32, (row, col)
    label : int32, (row, col)
        0 is background, n the n-th cell drawn.
    """

    def __init__(self, shape: tuple[int, int], *, ground: float = 0.0) -> None:
        self.image: Array = np.full(shape, ground, np.float32)
        self.label: Labels = np.zeros(shape, np.int32)
        self._area: list[int] = [0]
        self._hidden: list[int] = [0]

    def add_light(self, value: Array, corner: tuple[int, int]) -> None:
        """Add a square crop of light without labelling anything."""
        where = clip_to(self.label.shape, corner, value.shape[0])
        if where is not None:
            self.image[where[0]] += value[where[1]]

    def stamp(
        self, patch: Patch, *, opacity: float = 1.0, overlap: float = 0.25, min_area: int = 30, name: int | None = None
    ) -> bool:
        """Draw a cell on top of the others and label it.

        Parameters
        ----------
        patch : Patch
        opacity : float
            1 hides what lies below, 0 adds the light of both.
        overlap : float
            Largest part of the new cell that may lie over others, and of any other that may be hidden in all.
        min_area : int
            Smallest area in the frame, px.
        name : int or None
            Label value; the running number where None. A name may be used once.

        Returns
        -------
        bool
            False, and nothing is drawn, where it does not fit.
        """
        where = clip_to(self.label.shape, patch.corner, patch.mask.shape[0])
        if where is None:
            return False
        frame, crop = where
        mask = patch.mask[crop]
        below = self.label[frame][mask]
        if below.size < min_area or not self._fits(below, overlap):
            return False
        alpha, image = patch.alpha[crop], self.image[frame]
        image += alpha * (patch.value[crop] - np.float32(opacity) * image)
        self._enter(frame, mask, below, len(self._area) if name is None else name)
        return True

    def _fits(self, below: npt.NDArray[np.int32], overlap: float) -> bool:
        covered = np.bincount(below, minlength=1)
        if covered.size == 1:
            return True
        if below.size - covered[0] > overlap * below.size:
            return False
        return all(self._hidden[k] + covered[k] <= overlap * self._area[k] for k in np.flatnonzero(covered[1:]) + 1)

    def _enter(self, frame: tuple[slice, slice], mask: Mask, below: npt.NDArray[np.int32], name: int) -> None:
        covered = np.bincount(below, minlength=1)
        for k in np.flatnonzero(covered[1:]) + 1:
            self._hidden[k] += int(covered[k])
        missing = name + 1 - len(self._area)
        self._area.extend([0] * missing)
        self._hidden.extend([0] * missing)
        self._area[name] = int(mask.sum())
        self.label[frame][mask] = name


def one_piece(label: Labels, min_area: int = 30, *, renumber: bool = True) -> Labels:
    """Keep the largest 4-connected piece of every label, drop small ones, number 1..n (or keep the numbers)."""
    pieces = connected_components(label, background=0, connectivity=1)
    area = np.bincount(pieces.ravel())
    owner = np.zeros(area.size, np.int64)
    owner[pieces.ravel()] = label.ravel()
    largest: dict[int, int] = {}
    for piece in range(1, area.size):
        name = int(owner[piece])
        best = area[largest[name]] if name in largest else min_area - 1
        if area[piece] > best:
            largest[name] = piece
    table = np.zeros(area.size, np.int32)
    for number, name in enumerate(sorted(largest), start=1):
        table[largest[name]] = number if renumber else name
    return np.asarray(table[pieces], dtype=np.int32)
