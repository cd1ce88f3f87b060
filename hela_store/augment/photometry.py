"""Light: changes of the counts above the black level, before they are normalised with the frame's own limits.

Every number is drawn and transformed on the CPU, a fixed count for every pixel, whatever the encoder's
device. Shape suffixes: B views, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hela_store.base.rng import generator
from hela_store.images.normalise import CLAHE_TILES

from .variant import Variant

MANY = 16.0
"""Photons from which the normal approximation of a Poisson variable holds; below, its distribution is inverted."""


def apply_light(counts_BHW: Tensor, variants: Sequence[Variant], lo: float, hi: float, black: float) -> Tensor:
    """Change the light of views of one frame.

    In this order: brightness (factor), contrast (distance from the mean), gamma (``hi`` stays where it is), shot noise,
    additive noise (in shares of ``hi - lo``), local equalisation (between ``lo`` and ``hi``).

    Parameters
    ----------
    counts_BHW : float32, (B, H, W)
    variants : one a view
    lo, hi : float
        Normalisation limits of the frame, counts.
    black : float
        Black level, counts.

    Returns
    -------
    float32, (B, H, W), counts
    """
    floor = max(lo - black, 0.0)
    span = max(hi - black - floor, 1.0)
    out = counts_BHW.clone()
    for i, variant in enumerate(variants):
        out[i] = _change(counts_BHW[i], variant, black, (floor, span))
    return out


def _change(counts: Tensor, variant: Variant, black: float, limits: tuple[float, float]) -> Tensor:
    changes = (variant.brightness != 1, variant.contrast != 1, variant.gamma != 1)
    noises = (variant.photons > 0, variant.gaussian > 0, variant.clahe > 0)
    if not any(changes + noises):
        return counts
    floor, span = limits
    signal = (counts - black).clamp_min(0)
    if variant.brightness != 1:
        signal = signal * variant.brightness
    if variant.contrast != 1:
        mean = signal.mean()
        signal = (mean + (signal - mean) * variant.contrast).clamp_min(0)
    if variant.gamma != 1:
        signal = (floor + span) * (signal / (floor + span)) ** variant.gamma
    if variant.photons > 0:
        signal = shot_noise(signal * variant.photons, _normal(variant, "poisson", signal)) / variant.photons
    if variant.gaussian > 0:
        signal = signal + variant.gaussian * span * _normal(variant, "gaussian", signal)
    if variant.clahe > 0:
        signal = floor + span * _equalise((signal - floor) / span, variant.clahe)
    return signal + black


def _normal(variant: Variant, what: str, like: Tensor) -> Tensor:
    drawn = generator(what, variant.seed).standard_normal(tuple(like.shape), dtype=np.float32)
    return torch.from_numpy(drawn).to(like.device)


def shot_noise(mean: Tensor, normal: Tensor) -> Tensor:
    """Turn normal numbers into Poisson ones of the given means, both float32 of one shape.

    Below 16 the distribution is inverted at the normal's probability; from there on
    ``round(m + z sqrt(m) + (z^2 - 1) / 6)`` (Cornish and Fisher 1938): of the right mean, its variance 0.14 too large.
    """
    out = torch.round(mean + normal * mean.sqrt() + (normal * normal - 1) / 6).clamp_min(0)
    few = torch.nonzero(mean.flatten() < MANY).flatten()
    rate = mean.flatten()[few]
    # float32 ends a little below 1: one in a million is drawn as that
    chance = torch.special.ndtr(normal.flatten()[few]).clamp_max(1 - 1e-6)
    found, term = torch.zeros_like(rate), torch.exp(-rate)
    total, index = term.clone(), torch.arange(len(few), device=mean.device)
    flat = torch.zeros_like(rate)
    photons = 0
    while len(index) and photons < 4 * MANY:
        above = chance > total
        flat[index[~above]] = photons
        index, rate, chance, total, term = (part[above] for part in (index, rate, chance, total, term))
        photons += 1
        term = term * rate / photons
        total = total + term
    flat[index] = photons
    found = out.flatten()
    found[few] = flat
    return found.reshape(mean.shape)


def _equalise(share: Tensor, clip: float) -> Tensor:
    """Return the contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of values 0..1."""
    from skimage.exposure import equalize_adapthist

    unit = share.clamp(0, 1).cpu().numpy()
    kernel = [max(1, length // CLAHE_TILES) for length in unit.shape]
    equal = equalize_adapthist(unit, kernel_size=kernel, clip_limit=clip)
    return torch.from_numpy(np.asarray(equal, np.float32)).to(share.device)
