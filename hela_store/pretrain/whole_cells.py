"""Whole cells with cytoplasm, a nucleus and processes, as five kinds of transmitted light and fluorescence show them.

One map of optical thickness is drawn, and every contrast follows from it by its optics:

- phase contrast: the phase minus itself seen through the ring's wide kernel, which gives halo and shade-off (Yin,
  Kanade and Chen, "Understanding the phase contrast optics to restore artifact-free microscopy images", 2012);
- differential interference contrast: the derivative along the shear;
- bright field out of focus: the Laplacian of the phase (Teague's transport of intensity, 1983), and absorption;
- fluorescence of the cytoplasm, with a dark or a bright nucleus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

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

from .exposure import background, log_uniform

CONTRASTS = ("phase", "relief", "defocus", "fluorescence")
SHARES = (0.35, 0.3, 0.2, 0.15)
LEAST_AREA = 60


@dataclass(frozen=True, kw_only=True)
class Body:
    """The common traits of the cells of one scene; lengths px.

    Attributes
    ----------
    radius : median radius of a body
    fill, cluster : part of the frame covered, part of the cells placed against another
    aspect : range of minor over major axis
    roughness : rms of the outline's Fourier series
    processes : most processes of a cell, 0 for none
    round_share : part of the cells that are round and thick, as before they divide
    lamella : height of the flat part over that of the body
    """

    radius: float
    fill: float
    cluster: float
    aspect: tuple[float, float]
    roughness: float
    processes: int
    round_share: float
    lamella: float


def draw_body(rng: np.random.Generator) -> Body:
    """Draw what the cells of a scene have in common."""
    long = rng.random() < 0.5
    return Body(
        radius=log_uniform(rng, 9.0, 80.0),
        fill=float(rng.uniform(0.08, 0.7)),
        cluster=float(rng.uniform(0.1, 0.9)),
        aspect=(0.12, 0.5) if long else (0.5, 1.0),
        roughness=float(rng.uniform(0.02, 0.16)),
        processes=int(rng.integers(1, 7)) if rng.random() < 0.5 else 0,
        round_share=float(rng.uniform(0, 0.3)),
        lamella=float(rng.uniform(0.1, 0.7)),
    )


def branched(rng: np.random.Generator, depth: Array, middle: tuple[float, float], radius: float, count: int) -> Array:
    """Return the depth with ``count`` processes added, each a curve that tapers off, float32 like ``depth``."""
    axis = np.arange(depth.shape[0], dtype=np.float32)
    for _ in range(count):
        angle, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.5)
        length, width = radius * rng.uniform(0.8, 2.2), max(1.5, radius * rng.uniform(0.06, 0.22))
        steps = np.linspace(0.0, 1.0, max(6, int(length / max(2.0, 0.5 * width))))
        x, y = middle
        for before, t in pairwise(steps):
            x += (t - before) * length * math.cos(angle + bend * t)
            y += (t - before) * length * math.sin(angle + bend * t)
            thick = width * (1 - 0.75 * t)
            low_x, high_x = max(0, int(x - 3 * thick)), int(x + 3 * thick) + 2
            low_y, high_y = max(0, int(y - 3 * thick)), int(y + 3 * thick) + 2
            part = depth[low_y:high_y, low_x:high_x]
            away = np.hypot((axis[low_x:high_x] - x)[None, :], (axis[low_y:high_y] - y)[:, None])
            np.maximum(part, thick - away, out=part)
    return depth


def _height(rng: np.random.Generator, body: Body, depth: Array, radius: float, middle: tuple[float, float]) -> Array:
    """Draw the optical thickness of one cell, about 1 where the body is thickest, float32 like ``depth``."""
    inside = np.maximum(depth, 0)
    dome = np.sqrt(np.clip(inside / (0.8 * radius), 0, 1))
    height = body.lamella * np.clip(inside / max(1.5, 0.12 * radius), 0, 1) + (1 - body.lamella) * dome
    nucleus = Outline(radius=radius * rng.uniform(0.3, 0.5), aspect=rng.uniform(0.6, 1), angle=rng.uniform(0, 3.1))
    within = soft_mask(depth_map(nucleus, depth.shape[0], middle), max(0.8, 0.04 * radius)) * np.clip(inside, 0, 1)
    height = height + rng.uniform(-0.3, 0.4) * within
    grain = smooth_noise(rng, (depth.shape[0], depth.shape[0]), max(0.8, radius * rng.uniform(0.03, 0.1)))
    height = height + rng.uniform(0.02, 0.25) * grain * dome * (1 - 0.7 * within)
    count = int(rng.integers(0, 14))
    if count:
        sigma = max(0.8, radius * rng.uniform(0.02, 0.07))
        bumps = spots(rng, depth.shape[0], middle, count=count, spread=0.6 * radius, sigma=sigma)
        height = height + rng.uniform(-0.3, 0.5) * bumps * np.clip(inside, 0, 1)
    return np.asarray(height, dtype=np.float32)


def _patch(rng: np.random.Generator, body: Body, radius: float, centre: tuple[float, float]) -> Patch:
    is_round = rng.random() < body.round_share
    aspect = rng.uniform(0.8, 1.0) if is_round else rng.uniform(*body.aspect)
    outline = Outline(
        radius=radius * (0.7 if is_round else 1.0),
        aspect=float(aspect),
        angle=float(rng.uniform(0, math.pi)),
        bend=0.0 if is_round else float(rng.normal(0, 0.25)),
        waves=random_waves(rng, body.roughness * (0.2 if is_round else 1.0), harmonics=9, slope=0.9),
    )
    grown = 0 if is_round or not body.processes else int(rng.integers(0, body.processes + 1))
    reach = max(outline.reach, 2.6 * radius if grown else 0.0)
    side, corner, middle = crop_frame(centre, reach + 6)
    depth = depth_map(outline, side, middle)
    if grown:
        depth = branched(rng, depth, middle, 0.85 * outline.radius, grown)
    thick = rng.uniform(1.4, 2.6) if is_round else rng.uniform(0.6, 1.3)
    across = outline.radius * math.sqrt(outline.aspect)
    value = thick * _height(rng, body, depth, across, middle)
    alpha = soft_mask(depth, 0.8)
    return Patch(value=value.astype(np.float32), alpha=alpha, mask=depth >= 0, corner=corner)


def _add_cells(rng: np.random.Generator, body: Body, canvas: Canvas) -> None:
    size = canvas.label.shape[0]
    wanted = int(np.clip(rng.poisson(body.fill * size**2 / (math.pi * body.radius**2)), 1, 120))
    placed: list[tuple[float, float, float]] = []
    for _ in range(3 * wanted + 10):
        if len(placed) >= wanted:
            return
        radius = float(np.clip(body.radius * math.exp(0.2 * rng.standard_normal()), 7, 110))
        if placed and rng.random() < body.cluster:
            x0, y0, r0 = placed[int(rng.integers(len(placed)))]
            away, angle = (r0 + radius) * rng.uniform(0.6, 1.1), rng.uniform(0, 2 * math.pi)
            x, y = x0 + away * math.cos(angle), y0 + away * math.sin(angle)
        else:
            x, y = rng.uniform(-0.4 * radius, size + 0.4 * radius, 2)
        if canvas.stamp(_patch(rng, body, radius, (x, y)), overlap=0.2, min_area=LEAST_AREA):
            placed.append((x, y, radius))


def _debris(rng: np.random.Generator, canvas: Canvas) -> None:
    """Add dirt that is no cell: specks, and rings out of focus."""
    size = canvas.label.shape[0]
    for _ in range(int(rng.integers(0, 20))):
        sigma, height = log_uniform(rng, 0.8, 6.0), rng.uniform(-0.4, 0.8)
        side, corner, middle = crop_frame((rng.uniform(0, size), rng.uniform(0, size)), 3.0 * sigma)
        canvas.add_light(np.float32(height) * spots(rng, side, middle, count=1, spread=0.0, sigma=sigma), corner)


def seen(rng: np.random.Generator, thickness: Array, contrast: str, radius: float) -> Array:
    """Show a map of optical thickness through the optics of one contrast, float32, arbitrary units."""
    phase = ndimage.gaussian_filter(thickness, log_uniform(rng, 0.6, 1.8), truncate=3.0)
    if contrast == "phase":
        ring = _wide(phase, radius * log_uniform(rng, 0.25, 1.2))
        return np.asarray(float(rng.choice([-1.0, -1.0, 1.0])) * (phase - rng.uniform(0.6, 1.0) * ring), np.float32)
    if contrast == "relief":
        down, right = np.gradient(phase)
        angle = rng.uniform(0, 2 * math.pi)
        return np.asarray(math.cos(angle) * right + math.sin(angle) * down, dtype=np.float32)
    if contrast == "defocus":
        bent = ndimage.gaussian_laplace(thickness, log_uniform(rng, 1.0, 3.0), truncate=3.0)
        bent /= max(float(bent[::2, ::2].std()), 1e-4)
        absorbed = rng.uniform(0, 1.0) * phase / max(float(phase[::2, ::2].std()), 1e-4)
        return np.asarray(float(rng.choice([-1.0, 1.0])) * bent - absorbed, dtype=np.float32)
    return np.maximum(phase, 0)


def _wide(image: Array, sigma: float) -> Array:
    if sigma < 6:
        return np.asarray(ndimage.gaussian_filter(image, sigma, truncate=3.0), dtype=np.float32)
    coarse = ndimage.zoom(ndimage.gaussian_filter(ndimage.uniform_filter(image, 4)[::4, ::4], sigma / 4), 4, order=1)
    return np.asarray(coarse[: image.shape[0], : image.shape[1]], dtype=np.float32)


def whole_cell_scene(rng: np.random.Generator, size: int) -> tuple[Array, Labels]:
    """Draw one scene of whole cells; ``size`` is a multiple of 4.

    Returns
    -------
    image : float32, (size, size)
        Arbitrary grey units, not yet stretched for display.
    label : int32, (size, size)
    """
    body, canvas = draw_body(rng), Canvas((size, size))
    if rng.random() < 0.6:
        _debris(rng, canvas)
    _add_cells(rng, body, canvas)
    contrast = str(rng.choice(np.array(CONTRASTS), p=SHARES))
    image = seen(rng, canvas.image, contrast, body.radius)
    # strong against noise where the middle half of the cells' pixels differ from each other
    inside = image[::2, ::2][canvas.label[::2, ::2] > 0]
    image = image / max(float(inside.std()) if inside.size else 0.0, 1e-4)
    noise = smooth_noise(rng, (size, size), float(rng.uniform(0.3, 0.9)))
    image = image + np.float32(log_uniform(rng, 0.03, 0.5)) * noise
    return np.asarray(image + np.float32(rng.uniform(0, 0.5)) * background(rng, size), dtype=np.float32), canvas.label
