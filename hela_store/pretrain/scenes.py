"""Endless synthetic microscopy scenes with exact outlines, wide enough that a model trained on them meets real cells.

Every scene draws a *style* first (what kind of microscope, how large and how crowded the cells are, what is inside
them), then its cells. Four kinds of scene: ``bright`` (fluorescence), ``dark`` (stained, transmitted light), ``relief``
(differential interference contrast: derivatives of a height map, see :mod:`hela_store.pretrain.relief`) and ``whole``
(cells with cytoplasm and processes, see :mod:`hela_store.pretrain.whole_cells`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.datasets.nuclei import (
    Array,
    Canvas,
    Labels,
    Outline,
    Patch,
    crop_frame,
    depth_map,
    enlarge,
    one_piece,
    random_waves,
    smooth_noise,
    soft_mask,
    spots,
)

from .exposure import background, display, expose, log_uniform
from .relief import relief_scene
from .whole_cells import whole_cell_scene

Mode = Literal["bright", "dark", "relief", "whole"]
MIN_AREA = 30
MOST_CELLS = 160
BANK = 288


@dataclass(frozen=True, kw_only=True)
class Style:
    """Describe what the cells of one scene have in common; lengths in px, strengths relative to a cell of brightness 1.

    Attributes
    ----------
    radius, spread : float
        Median radius and the standard deviation of its logarithm.
    aspect : (float, float)
        Range of minor over major axis.
    bend, roughness, slope : float
        Greatest bend, rms of the outline's Fourier series, and how fast its harmonics fall.
    fill, cluster : float
        Part of the frame that cells cover, and the part of the cells placed against another one.
    overlap, opacity : float
        Greatest overlap allowed and how much of the lower cell the upper one hides.
    dynamic : float
        Brightness of the brightest over the dimmest cell.
    dome : float
        How much thinner a cell is at its edge, 0..1.
    blur : (float, float)
        Range of the edge's Gaussian blur.
    grain, grain_size, chromatin, holes, rim, slant : float
        Strength (and size) of the textures inside.
    mitotic, defocus : float
        Part of the cells that divide or lie out of focus.
    """

    radius: float
    spread: float
    aspect: tuple[float, float]
    bend: float
    roughness: float
    slope: float
    fill: float
    cluster: float
    overlap: float
    opacity: float
    dynamic: float
    dome: float
    blur: tuple[float, float]
    grain: float
    grain_size: float
    chromatin: float
    holes: float
    rim: float
    slant: float
    mitotic: float
    defocus: float


def _sometimes(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    """Uniform in low..high with the given chance, else 0."""
    value = float(rng.uniform(low, high))
    return value if rng.random() < chance else 0.0


def draw_style(rng: np.random.Generator) -> Style:
    """Draw what the cells of a scene have in common."""
    radius = log_uniform(rng, 8.0, 24.0) if rng.random() < 0.6 else log_uniform(rng, 4.0, 60.0)
    roundest = rng.uniform(0.75, 1.0)
    blur = log_uniform(rng, 0.5, 1.6) * (1.0 + 0.25 * (radius > 20))
    crowded = rng.random() < 0.3
    return Style(
        radius=radius,
        spread=float(rng.uniform(0.06, 0.3)),
        aspect=(float(roundest * rng.uniform(0.4, 0.95)), float(roundest)),
        bend=_sometimes(rng, 0.5, 0.1, 0.6),
        roughness=float(rng.choice([0.015, 0.04, 0.08, 0.14], p=[0.3, 0.4, 0.2, 0.1])),
        slope=float(rng.uniform(0.6, 2.2)),
        fill=float(rng.uniform(0.35, 0.7)) if crowded else log_uniform(rng, 0.02, 0.35),
        cluster=float(rng.uniform(0.1, 0.9)),
        overlap=float(rng.choice([0.04, 0.15, 0.3])),
        opacity=float(rng.uniform(0.4, 1.0)),
        dynamic=log_uniform(rng, 1.3, 14.0),
        dome=float(rng.uniform(0.0, 0.65)),
        blur=(0.75 * blur, min(2.5, 1.4 * blur)),
        grain=_sometimes(rng, 0.75, 0.03, 0.35),
        grain_size=log_uniform(rng, 0.7, 4.0),
        chromatin=_sometimes(rng, 0.3, 0.3, 1.5),
        holes=_sometimes(rng, 0.35, 0.15, 0.65),
        rim=_sometimes(rng, 0.15, 0.2, 0.9),
        slant=_sometimes(rng, 0.4, 0.1, 0.4),
        mitotic=_sometimes(rng, 0.5, 0.01, 0.12),
        defocus=_sometimes(rng, 0.3, 0.05, 0.3),
    )


class Brush:
    """Draws the cells of one scene: its style, and fields of noise that every cell cuts its texture from."""

    def __init__(self, rng: np.random.Generator, style: Style) -> None:
        self.rng, self.style = rng, style
        self._coarse = smooth_noise(rng, (BANK, BANK), max(1.0, 0.35 * style.radius))
        self._fine = smooth_noise(rng, (BANK, BANK), min(style.grain_size, 0.4 * style.radius))

    def cut(self, bank: Array, side: int) -> Array:
        """Random square of a bank of noise, float32 (side, side)."""
        y, x = self.rng.integers(0, BANK - side, 2) if side < BANK else (0, 0)
        piece = bank[y : y + side, x : x + side]
        return piece if side <= BANK else np.pad(piece, (0, side - BANK), mode="reflect")

    def texture(self, depth: Array, radius: float, centre: tuple[float, float]) -> Array:
        """Draw what modulates a cell's brightness inside, about 1, float32 like `depth`."""
        rng, style, side = self.rng, self.style, depth.shape[0]
        out = 1.0 + 0.06 * self.cut(self._coarse, side)
        if style.grain:
            out += np.float32(style.grain * rng.uniform(0.5, 1.2)) * self.cut(self._fine, side)
        if style.chromatin:
            count, sigma = int(rng.integers(3, 14)), max(0.8, 0.09 * radius)
            bumps = spots(rng, side, centre, count=count, spread=0.75 * radius, sigma=sigma)
            out += np.float32(style.chromatin) * bumps
        if style.holes:
            count, sigma = int(rng.integers(1, 5)), max(0.8, 0.13 * radius)
            out -= np.float32(style.holes) * np.minimum(
                spots(rng, side, centre, count=count, spread=0.55 * radius, sigma=sigma), 1.0
            )
        if style.rim:
            width = max(1.0, 0.12 * radius)
            out += np.float32(style.rim) * np.exp(-(((depth - width) / width) ** 2))
        if style.slant:
            axis = np.arange(side, dtype=np.float32)
            angle = rng.uniform(0, 2 * math.pi)
            across = (axis - centre[0])[None, :] * math.cos(angle) + (axis - centre[1])[:, None] * math.sin(angle)
            out += np.float32(style.slant / radius) * across
        return np.asarray(np.maximum(out, 0.12), dtype=np.float32)


def _patch(brush: Brush, outline: Outline, brightness: float, blur: float, centre: tuple[float, float]) -> Patch:
    """Draw one cell: domed, textured, seen through its own blur."""
    side, corner, middle = crop_frame(centre, outline.reach + 3.0 * blur + 2.0)
    depth = depth_map(outline, side, middle)
    alpha = soft_mask(depth, blur)
    flat = min(0.5 * outline.radius * math.sqrt(outline.aspect), 12.0)
    thickness = 1.0 - brush.style.dome * (1.0 - np.clip(depth / flat, 0.0, 1.0)) ** 2
    value = brightness * thickness * brush.texture(depth, outline.radius, middle)
    if blur > 1.2:
        value = ndimage.gaussian_filter(value, 0.6 * blur, truncate=2.5)
    return Patch(value=value.astype(np.float32), alpha=alpha, mask=depth >= 0, corner=corner)


def _outline(rng: np.random.Generator, style: Style, radius: float) -> Outline:
    return Outline(
        radius=radius,
        aspect=float(rng.uniform(*style.aspect)),
        angle=float(rng.uniform(0, math.pi)),
        bend=style.bend * float(rng.uniform(-1, 1)) if rng.random() < 0.5 else 0.0,
        waves=random_waves(rng, style.roughness * rng.uniform(0.5, 1.5), harmonics=8, slope=style.slope),
    )


def _place(
    rng: np.random.Generator, style: Style, size: int, placed: list[tuple[float, float, float]], radius: float
) -> tuple[float, float] | None:
    """Centre for a new cell, against a cell already there or anywhere; None where it would lie too deep in another."""
    if placed and rng.random() < style.cluster:
        x0, y0, r0 = placed[int(rng.integers(len(placed)))]
        away, angle = (r0 + radius) * rng.uniform(0.85, 1.15), rng.uniform(0, 2 * math.pi)
        x, y = x0 + away * math.cos(angle), y0 + away * math.sin(angle)
    else:
        x, y = rng.uniform(-0.5 * radius, size + 0.5 * radius, 2)
    near = 1.0 - 0.9 * style.overlap - 0.15
    others = np.array(placed, dtype=np.float64).reshape(-1, 3)
    if (np.hypot(others[:, 0] - x, others[:, 1] - y) < near * (others[:, 2] + radius)).any():
        return None
    if not (-0.7 * radius < x < size + 0.7 * radius and -0.7 * radius < y < size + 0.7 * radius):
        return None
    return float(x), float(y)


def _brightness(rng: np.random.Generator, style: Style) -> float:
    """Brightness of one cell, 1/dynamic..1, most of them dim where the range is wide."""
    return float(style.dynamic ** -(rng.beta(1.6, 1.2)))


def _add_cells(rng: np.random.Generator, style: Style, canvas: Canvas) -> None:
    """Fill the canvas with cells up to the style's fill."""
    brush = Brush(rng, style)
    size = canvas.label.shape[0]
    area = math.pi * style.radius**2
    wanted = int(np.clip(rng.poisson(style.fill * size**2 / area), 1, MOST_CELLS))
    placed: list[tuple[float, float, float]] = []
    for _ in range(3 * wanted + 20):
        if len(placed) >= wanted:
            return
        radius = float(np.clip(style.radius * math.exp(style.spread * rng.standard_normal()), 3.6, 66.0))
        centre = _place(rng, style, size, placed, radius)
        if centre is None:
            continue
        if rng.random() < style.mitotic:
            _add_mitosis(brush, canvas, centre, radius)
            placed.append((*centre, radius))
            continue
        blur = float(rng.uniform(*style.blur))
        if rng.random() < style.defocus:
            blur = blur + float(rng.uniform(0.8, 2.5))
        patch = _patch(brush, _outline(rng, style, radius), _brightness(rng, style), min(blur, 0.3 * radius), centre)
        if canvas.stamp(patch, opacity=style.opacity, overlap=style.overlap, min_area=MIN_AREA):
            placed.append((*centre, radius))


def _add_mitosis(brush: Brush, canvas: Canvas, centre: tuple[float, float], radius: float) -> None:
    """Draw condensed chromosomes: a rough bright clump, a bar, or two bars that part."""
    rng, style = brush.rng, brush.style
    kind = rng.choice(["clump", "bar", "pair"], p=[0.4, 0.3, 0.3])
    angle, bright = float(rng.uniform(0, math.pi)), float(rng.uniform(0.8, 2.2))
    aspect = float(rng.uniform(0.6, 0.95)) if kind == "clump" else float(rng.uniform(0.25, 0.5))
    small = max(3.8, radius * {"clump": 0.7, "bar": 0.55, "pair": 0.45}[str(kind)])
    apart = small * float(rng.uniform(0.9, 2.0)) if kind == "pair" else 0.0
    for side in (-1, 1) if kind == "pair" else (0,):
        x, y = centre[0] - side * apart * math.sin(angle), centre[1] + side * apart * math.cos(angle)
        outline = Outline(
            radius=small,
            aspect=aspect,
            angle=angle + float(rng.normal(0, 0.15)),
            bend=-side * float(rng.uniform(0, 0.25)),
            waves=random_waves(rng, float(rng.uniform(0.02, 0.12)), harmonics=10, slope=0.5),
        )
        blur = min(style.blur[0], 0.25 * small)
        patch = _patch(brush, outline, bright, blur, (x, y))
        canvas.stamp(patch, opacity=style.opacity, overlap=0.1, min_area=MIN_AREA)


def _distractors(rng: np.random.Generator, style: Style, canvas: Canvas) -> None:
    """Add light that is no cell: faint haze, blurred debris, small specks."""
    size = canvas.label.shape[0]
    for _ in range(int(rng.integers(0, 10)) if rng.random() < 0.6 else 0):
        sigma = float(rng.uniform(0.5, 1.6)) * style.radius
        height = float(rng.uniform(0.02, 0.35)) / math.sqrt(style.dynamic)
        _add_spot(rng, canvas, size, max(4.0, sigma), height)
    for _ in range(int(rng.integers(0, 40)) if rng.random() < 0.4 else 0):
        _add_spot(rng, canvas, size, float(rng.uniform(0.5, 1.3)), float(rng.uniform(0.1, 0.8)))


def _add_spot(rng: np.random.Generator, canvas: Canvas, size: int, sigma: float, height: float) -> None:
    side, corner, middle = crop_frame((rng.uniform(0, size), rng.uniform(0, size)), 3.0 * sigma)
    canvas.add_light(np.float32(height) * spots(rng, side, middle, count=1, spread=0.0, sigma=sigma), corner)


def _covered(label: Labels) -> float:
    return float((label[::4, ::4] > 0).mean())


def _bright(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    """Fluorescence: light from the nuclei on a dark, uneven ground."""
    style, canvas = draw_style(rng), Canvas((size, size))
    _distractors(rng, style, canvas)
    _add_cells(rng, style, canvas)
    light, faintest = canvas.image, 1.0 / style.dynamic
    if rng.random() < 0.4:
        light = light + np.float32(rng.uniform(0.05, 0.3)) * _glow(light, max(6.0, 0.7 * style.radius))
    ground = faintest * log_uniform(rng, 0.1, 1.5)
    light = light + ground * np.maximum(1 + np.float32(log_uniform(rng, 0.02, 0.4)) * background(rng, size), 0.0)
    image = expose(rng, np.asarray(light, dtype=np.float32), faintest)
    return display(rng, image, _covered(canvas.label), top=(0.02, 1.5), gamma=(0.5, 1.2)), canvas.label


def _glow(light: Array, sigma: float) -> Array:
    """Light from out of focus: a wide blur, computed on every fourth pixel."""
    coarse = ndimage.gaussian_filter(ndimage.uniform_filter(light, 4)[::4, ::4], 0.25 * sigma, truncate=3.0)
    return enlarge(np.pad(coarse, ((0, 2), (0, 2)), mode="edge"), 4, (light.shape[0], light.shape[1]))


def _dark(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    """Stained cells in transmitted light: absorption on a bright ground, with pale bodies or a halo around them."""
    style, canvas = draw_style(rng), Canvas((size, size))
    _distractors(rng, style, canvas)
    _add_cells(rng, style, canvas)
    stain = canvas.image
    if rng.random() < 0.5:
        tissue = smooth_noise(rng, (size, size), log_uniform(rng, 1.5, 30.0))
        stain = np.asarray(stain + rng.uniform(0.02, 0.3) / style.dynamic * np.abs(tissue), dtype=np.float32)
    light = np.asarray(np.exp(-rng.uniform(0.5, 1.8) * stain), dtype=np.float32)
    if rng.random() < 0.4:
        wide = ndimage.gaussian_filter(light, rng.uniform(2.0, 5.0), truncate=2.5)
        light = np.asarray(light + np.float32(rng.uniform(0.2, 0.8)) * (light - wide), dtype=np.float32)
    shaded = light * (1 + np.float32(log_uniform(rng, 0.01, 0.15)) * background(rng, size))
    image = expose(rng, np.asarray(shaded, dtype=np.float32), 0.5 / style.dynamic)
    return display(rng, image, _covered(canvas.label), top=(0.05, 3.0), gamma=(0.7, 1.4)), canvas.label


def _relief(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    image, label = relief_scene(rng, size)
    return display(rng, image, 1.0, top=(0.02, 1.0), gamma=(0.8, 1.25)), label


def _whole(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    image, label = whole_cell_scene(rng, size)
    return display(rng, image, 1.0, top=(0.02, 1.0), gamma=(0.7, 1.4)), label


def scene(rng: np.random.Generator, size: int = 512) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Draw one scene.

    Parameters
    ----------
    rng : numpy.random.Generator
        All randomness comes from it: the same state gives the same scene.
    size : int
        Rows and columns, px.

    Returns
    -------
    image : float32, (size, size)
        Display-normalised, 0..1.
    label : int32, (size, size)
        0 background, 1..n one connected cell of at least 30 px each; outlines lie at half height of the visible edge.
    """
    mode: Mode = rng.choice(np.array(["bright", "dark", "relief", "whole"]), p=[0.34, 0.12, 0.18, 0.36])
    draw = {"bright": _bright, "dark": _dark, "relief": _relief, "whole": _whole}[str(mode)]
    image, label = draw(rng, size)
    return image, one_piece(label, MIN_AREA)
