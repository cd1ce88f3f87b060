"""Scenes as differential interference contrast shows them: grey ground, large cells, edges as light and dark lines.

The contrast is a mixture of the directional derivative and the curvature of one height map, to which every cell adds a
dome, organelles as grain, a nucleus and vesicles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hela_store.datasets.nuclei import (
    Array,
    Canvas,
    Labels,
    Outline,
    Patch,
    crop_frame,
    depth_map,
    random_waves,
    smooth_noise,
    soft_mask,
    spots,
)


@dataclass(frozen=True, kw_only=True)
class ReliefStyle:
    """Describe what the cells of one relief scene have in common; heights relative, lengths px.

    Attributes
    ----------
    radius, fill, cluster : float
        Median radius, part of the frame covered, part of the cells placed against another.
    roughness : float
        Rms of the outline's Fourier series.
    edge, dome, grain, vesicles : float
        Heights of the rim's step, the body, the organelles and the vesicles.
    grain_size : float
        Smoothing of the organelles.
    shear, curvature : float
        Weights of the directional derivative and of the Laplacian.
    """

    radius: float
    fill: float
    cluster: float
    roughness: float
    edge: float
    dome: float
    grain: float
    vesicles: float
    grain_size: float
    shear: float
    curvature: float


def draw_relief_style(rng: np.random.Generator) -> ReliefStyle:
    """Draw what the cells of a relief scene have in common."""
    radius = float(math.exp(rng.uniform(math.log(20.0), math.log(72.0))))
    mix = float(rng.random())
    return ReliefStyle(
        radius=radius,
        fill=float(rng.uniform(0.1, 0.75)),
        cluster=float(rng.uniform(0.3, 0.95)),
        roughness=float(rng.uniform(0.02, 0.12)),
        edge=float(rng.uniform(0.3, 1.6)),
        dome=float(rng.uniform(0.5, 4.0)) * radius / 20.0,
        grain=float(rng.uniform(0.1, 0.7)),
        vesicles=float(rng.uniform(0.0, 2.0)),
        grain_size=float(rng.uniform(0.9, 2.2)),
        shear=mix,
        curvature=1.1 - mix,
    )


def _height(
    rng: np.random.Generator, style: ReliefStyle, depth: Array, radius: float, middle: tuple[float, float]
) -> Array:
    """Height of one cell inside its outline, float32 like `depth`."""
    side = depth.shape[0]
    inside = np.clip(depth / (0.45 * radius), 0.0, 1.0)
    height = style.edge * rng.uniform(0.6, 1.3) + style.dome * np.sin(0.5 * math.pi * inside)
    x, y = middle[0] + rng.normal(0, 0.15) * radius, middle[1] + rng.normal(0, 0.15) * radius
    nucleus = Outline(radius=radius * rng.uniform(0.35, 0.5), aspect=rng.uniform(0.6, 1.0), angle=rng.uniform(0, 3.1))
    within = soft_mask(depth_map(nucleus, side, (x, y)), 1.2)
    grain = style.grain * smooth_noise(rng, depth.shape, style.grain_size)
    grain += 0.5 * style.grain * smooth_noise(rng, depth.shape, 3.0 * style.grain_size)
    height = height + grain * (1.0 - rng.uniform(0.3, 0.9) * within) + rng.uniform(-0.6, 0.8) * style.edge * within
    count = int(rng.integers(0, 16))
    if style.vesicles and count:
        bumps = spots(rng, side, middle, count=count, spread=0.7 * radius, sigma=float(rng.uniform(1.0, 2.6)))
        height = height + style.vesicles * float(rng.choice([-1.0, 1.0])) * bumps
    return np.asarray(height, dtype=np.float32)


def _patch(rng: np.random.Generator, style: ReliefStyle, radius: float, centre: tuple[float, float]) -> Patch:
    outline = Outline(
        radius=radius,
        aspect=float(rng.uniform(0.5, 1.0)),
        angle=float(rng.uniform(0, math.pi)),
        bend=float(rng.normal(0, 0.12)),
        waves=random_waves(rng, style.roughness * rng.uniform(0.4, 1.4), harmonics=12, slope=1.0),
    )
    blur = float(rng.uniform(0.7, 1.6))
    side, corner, middle = crop_frame(centre, outline.reach + 3 * blur + 2)
    depth = depth_map(outline, side, middle)
    alpha = soft_mask(depth, blur)
    return Patch(value=_height(rng, style, depth, radius, middle), alpha=alpha, mask=alpha >= 0.5, corner=corner)


def _add_cells(rng: np.random.Generator, style: ReliefStyle, canvas: Canvas) -> None:
    size = canvas.label.shape[0]
    wanted = max(1, int(rng.poisson(style.fill * size**2 / (math.pi * style.radius**2))))
    placed: list[tuple[float, float, float]] = []
    for _ in range(3 * wanted + 10):
        radius = style.radius * math.exp(0.15 * rng.standard_normal())
        if placed and rng.random() < style.cluster:
            x0, y0, r0 = placed[int(rng.integers(len(placed)))]
            away, angle = (r0 + radius) * rng.uniform(0.8, 1.05), rng.uniform(0, 2 * math.pi)
            x, y = x0 + away * math.cos(angle), y0 + away * math.sin(angle)
        else:
            x, y = rng.uniform(-0.3 * radius, size + 0.3 * radius, 2)
        outside = min(x, y) < -0.5 * radius or max(x, y) > size + 0.5 * radius
        if outside or any(math.hypot(x - a, y - b) < 0.7 * (radius + c) for a, b, c in placed):
            continue
        if canvas.stamp(_patch(rng, style, radius, (x, y)), overlap=0.25, min_area=100):
            placed.append((x, y, radius))
        if len(placed) >= wanted:
            return


def _fibres(rng: np.random.Generator, canvas: Canvas, height: float) -> None:
    """Add thin retraction fibres that leave the cells: unlabelled."""
    size = canvas.label.shape[0]
    edge_y, edge_x = np.nonzero(canvas.label[::3, ::3])
    for _ in range(int(rng.integers(0, 60)) if edge_x.size else 0):
        at = int(rng.integers(edge_x.size))
        angle, length = rng.uniform(0, 2 * math.pi), int(rng.integers(15, 70))
        t = np.arange(length, dtype=np.float32)
        bend = rng.normal(0, 0.006)
        x = np.rint(3 * edge_x[at] + t * np.cos(angle + bend * t)).astype(np.intp)
        y = np.rint(3 * edge_y[at] + t * np.sin(angle + bend * t)).astype(np.intp)
        keep = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        x, y = x[keep], y[keep]
        free = canvas.label[y, x] == 0
        canvas.image[y[free], x[free]] += np.float32(height)


def relief_scene(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    """Draw one relief scene.

    Returns
    -------
    image : float32, (size, size)
        Arbitrary grey units, not yet stretched for display.
    label : int32, (size, size)
    """
    style, canvas = draw_relief_style(rng), Canvas((size, size))
    _add_cells(rng, style, canvas)
    if rng.random() < 0.5:
        _fibres(rng, canvas, float(rng.uniform(0.3, 1.2)))
    height = ndimage.gaussian_filter(canvas.image, rng.uniform(0.7, 1.2), truncate=3.0)
    down, right = np.gradient(height)
    angle = rng.uniform(0, 2 * math.pi)
    image = style.shear * (math.cos(angle) * right + math.sin(angle) * down)
    bent = ndimage.laplace(ndimage.gaussian_filter(height, 0.6, truncate=3.0))
    image = image + float(rng.choice([-1.0, 1.0])) * style.curvature * bent
    inside = canvas.label[::2, ::2] > 0
    image = image / max(float(image[::2, ::2][inside].std()) if inside.any() else 0.0, 1e-3)
    noise = smooth_noise(rng, (size, size), float(rng.uniform(0.3, 0.8)))
    image = image + np.float32(math.exp(rng.uniform(math.log(0.05), math.log(0.5)))) * noise
    uneven = smooth_noise(rng, (size, size), size / 6)
    return np.asarray(image + np.float32(rng.uniform(0, 0.3)) * uneven, dtype=np.float32), canvas.label
