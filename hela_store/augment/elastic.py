"""Smooth random displacement fields, and whether a warp folds.

``u = alpha * (G_sigma * n)``, n ~ N(0, 1) for both axes (Simard et al. 2003), the smoothing periodic. The discrete
Fourier transform of white noise is white noise, and the Gaussian leaves next to nothing of all but the lowest modes: so
only those are drawn, which gives the same law at a thousandth of the random numbers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

Field = npt.NDArray[np.float32]
FAINTEST = 14.0
"""Modes are drawn down to exp(-14), a millionth, of the strongest one's amplitude."""
DAMPING = 0.95
"""A field that folds is multiplied by this until it does not."""


def smooth_noise(rng: np.random.Generator, shape_rc: tuple[int, int], sigma: float) -> Field:
    """Draw white noise N(0, 1) of two axes under a periodic Gaussian of ``sigma`` px.

    Returns
    -------
    float32, (2, row, col)
        x and y; rms ``1 / (2 sigma sqrt(pi))``.
    """
    height, width = shape_rc
    most = math.sqrt(FAINTEST / 2) / (math.pi * sigma)  # cycles per px
    rows = _modes(height, most)
    columns = np.arange(min(int(most * width) + 1, width // 2) + 1)
    noise = rng.standard_normal((2, 2, len(rows), len(columns)))
    spectrum = math.sqrt(height * width / 2) * (noise[0] + 1j * noise[1])
    # the inverse transform keeps the Hermitian half of these columns only
    spectrum[..., (columns == 0) | (2 * columns == width)] *= math.sqrt(2)
    gauss = [np.exp(-2 * (math.pi * sigma * k / n) ** 2) for k, n in ((rows, height), (columns, width))]
    spectrum *= gauss[0][:, None] * gauss[1]
    tall = np.zeros((2, height, len(columns)), np.complex64)
    tall[:, rows] = spectrum
    tall = scipy.fft.ifft(tall, axis=1, overwrite_x=True)
    return np.asarray(scipy.fft.irfft(tall, n=width, axis=2), np.float32)


def _modes(length: int, most: float) -> npt.NDArray[np.int64]:
    """Return wave numbers of both signs up to ``most`` cycles per px."""
    highest = int(most * length) + 1
    if 2 * highest + 1 >= length:
        return np.arange(length) - length // 2
    return np.arange(-highest, highest + 1)


def displacement(
    rng: np.random.Generator, shape_rc: tuple[int, int], sigma: float, alpha: float, amplitude: str
) -> Field:
    """Draw a displacement, px.

    Parameters
    ----------
    rng : np.random.Generator
    shape_rc : (int, int)
    sigma : float
        px.
    alpha : float
        The formula's factor (``amplitude`` ``"literal"``), rms an axis (``"rms"``) or longest displacement (``"max"``)
        in px.
    amplitude : str

    Returns
    -------
    float32, (2, row, col), x and y
    """
    if alpha == 0:
        return np.zeros((2, *shape_rc), np.float32)
    field = smooth_noise(rng, shape_rc, sigma)
    unit = 1.0
    if amplitude == "rms":
        unit = rms(field)
    elif amplitude == "max":
        unit = float(np.sqrt(np.einsum("crw,crw->rw", field, field).max()))
    field *= np.float32(alpha / unit)
    return field


def rms(field: Field) -> float:
    """Return the rms displacement along an axis, over both, px."""
    return float(np.sqrt(np.mean(np.square(field, dtype=np.float64))))


def smallest_jacobian(linear: npt.NDArray[np.float64], field: Field, factor: float = 1.0) -> float:
    """Return the smallest Jacobian determinant of ``x -> linear x + factor field(x)``, a mirror's sign taken off.

    Taken at the four corners of every square of four pixels: where all are positive, the bilinear map folds nowhere.
    """
    return _smallest(*_slopes(linear, field), factor) * abs(float(np.linalg.det(linear)))


def damped(linear: npt.NDArray[np.float64], field: Field) -> tuple[float, float]:
    """Return the first of 1, 0.95, 0.95^2, ... by which the field does not fold, and the smallest determinant then."""
    slopes, factor = _slopes(linear, field), 1.0
    while (least := _smallest(*slopes, factor)) <= 0:
        factor *= DAMPING
    return factor, least * abs(float(np.linalg.det(linear)))


def _slopes(linear: npt.NDArray[np.float64], field: Field) -> tuple[Field, Field]:
    """Return the differences along x and along y of the field as seen before the linear map."""
    (a, b), (c, d) = np.linalg.inv(linear).astype(np.float32)
    before = np.stack([a * field[0] + b * field[1], c * field[0] + d * field[1]])
    return np.diff(before, axis=2), np.diff(before, axis=1)


def _smallest(across: Field, down: Field, factor: float) -> float:
    """Return the smallest ``det(1 + factor G)``, G the slopes."""
    step, least = np.float32(factor), math.inf
    xx, xy, yx, yy = 1 + step * across[0], step * across[1], step * down[0], 1 + step * down[1]
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            corner = xx[rows] * yy[:, columns]
            corner -= xy[rows] * yx[:, columns]
            least = min(least, float(corner.min())) if corner.size else least
    return least if least < math.inf else 1.0
