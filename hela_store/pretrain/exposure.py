"""From light to a displayed picture: uneven ground, optics, noise, compression, stretch."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.fft import dctn, idctn

from hela_store.datasets.nuclei import Array, smooth_noise


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from low..high, evenly on a logarithmic scale."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def background(rng: np.random.Generator, size: int) -> Array:
    """Draw uneven illumination, mean about 0, rms of order 1: a polynomial and broad blobs, float32 (size, size)."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    c = rng.normal(0, 1, 5).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    plane = c[0] * x + c[1] * y + 0.6 * (c[2] * x * x + c[3] * y * y + c[4] * x * y)
    return np.asarray(plane + rng.uniform(0, 1) * smooth_noise(rng, (size, size), size / 8), dtype=np.float32)


def expose(rng: np.random.Generator, light: Array, faintest: float) -> Array:
    """Expose: optics, shot noise, read noise; sometimes correlated noise, saturation or block compression.

    `faintest` is the contrast of the dimmest cells: read noise stays below about half of it.
    """
    size = light.shape[0]
    if rng.random() < 0.3:
        light = ndimage.gaussian_filter(light, rng.uniform(0.4, 1.0), truncate=3.0)
    read = faintest * log_uniform(rng, 0.02, 0.5)
    shot = faintest * log_uniform(rng, 0.02, 0.35)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    noise *= np.sqrt(read**2 + shot**2 * np.maximum(light, 0.0) / faintest)
    if rng.random() < 0.35:
        along = rng.uniform(0.4, 0.9)
        noise = ndimage.gaussian_filter(noise, (along * rng.uniform(0.3, 1), along), truncate=3.0) * np.float32(1.5)
    light = light + noise
    if rng.random() < 0.15:
        light = np.minimum(light, np.quantile(light[::4, ::4], rng.uniform(0.95, 0.995)))
    if rng.random() < 0.12:
        light = _block_compress(light, float(rng.uniform(0.02, 0.08)))
    return np.asarray(light, dtype=np.float32)


def _block_compress(image: Array, strength: float) -> Array:
    """Quantise 8x8 cosine coefficients as JPEG does; `strength` is the step relative to the image's range."""
    rows, cols = (n // 8 * 8 for n in image.shape)
    blocks = image[:rows, :cols].reshape(rows // 8, 8, cols // 8, 8)
    order = np.arange(8, dtype=np.float32)
    step = np.float32(strength * np.ptp(image[::4, ::4])) * (1 + order[:, None, None] + order[None, None, :])
    coded = np.round(dctn(blocks, axes=(1, 3), norm="ortho") / step) * step
    out = image.copy()
    out[:rows, :cols] = idctn(coded, axes=(1, 3), norm="ortho").reshape(rows, cols)
    return out


def display(
    rng: np.random.Generator, image: Array, covered: float, *, top: tuple[float, float], gamma: tuple[float, float]
) -> Array:
    """Percentile stretch with random limits, then gamma; clipped to 0..1. `covered` is the cells' part of the frame."""
    above = min(log_uniform(rng, *top), 50.0 * covered + 0.02)
    low, high = np.percentile(image[::2, ::2], [rng.uniform(0.0, 2.5), 100 - above])
    unit = np.clip((image - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    return np.asarray(unit ** np.float32(log_uniform(rng, *gamma)), dtype=np.float32)
