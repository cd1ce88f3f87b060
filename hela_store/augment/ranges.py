"""``[augment]`` of the recipe: how many variants a view gets, and each transform's range and probability."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from hela_store.base.checks import check_choice, check_range
from hela_store.base.files import digest
from hela_store.errors import RecipeError

VERSION = 1
"""Of the way parameters become pixels; another one makes other variants."""
MOST_UNASKED = 100
"""Variants of a view that are embedded without being asked twice."""

Amplitude = Literal["literal", "rms", "max"]
VariantFrames = Literal["all", "train"]

ALPHA: dict[str, tuple[float, float]] = {"literal": (25.0, 35.0), "rms": (1.0, 2.0), "max": (5.0, 10.0)}
"""Range of alpha where the recipe gives none. Literal: the factor of Simard et al., "Best practices for convolutional
neural networks applied to visual document analysis", 2003; the others px."""
MOST_DISPLACEMENT = 10.0
"""px, of the largest displacement under ``amplitude = "max"``."""


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """One number drawn evenly from ``range`` (lowest, highest), with a probability; not drawn, nothing is done."""

    probability: float
    range: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Probabilities of mirroring left to right, and top to bottom."""

    horizontal: float = 0.5
    vertical: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """A smooth random displacement: alpha times noise N(0, 1) of both axes under a Gaussian of ``sigma`` px.

    ``amplitude`` ``"literal"`` is that formula; ``"rms"`` and ``"max"`` first bring the smoothed noise to unit rms an
    axis, or to a longest displacement of 1, so that ``alpha`` (lowest, highest) is px. An empty one is `ALPHA`.
    """

    probability: float = 1.0
    amplitude: Amplitude = "rms"
    sigma: float = 10.0
    alpha: tuple[float, ...] = ()

    @property
    def alpha_range(self) -> tuple[float, float]:
        """Lowest and highest alpha."""
        low, high = self.alpha or ALPHA[self.amplitude]
        return low, high


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Shot noise of so many photons a count above the black level."""

    probability: float = 0.25
    photons_per_count: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """``[augment]``; lengths in px of the frame as acquired.

    Attributes
    ----------
    variants : of every view, beside it as acquired; 0 for none
    frames : ``"all"``, or ``"train"`` for the frames of the training block, the only ones whose variants are ever read
    seed : with frame, tile and variant it decides everything that is drawn
    keep : least share of its area by which a cell is one of the view's; of a smaller part the ground is not valid
    rotate, shift, scale : degrees counter-clockwise; px along each axis; factor
    flip, elastic, poisson : see there
    brightness, contrast : factors of the signal, and of its distance from its mean
    gamma : exponent of the signal as a share of the frame's white
    gaussian : standard deviation of additive noise as a share of the frame's range
    clahe : clip limit of contrast-limited adaptive histogram equalisation
    """

    variants: int = 0
    frames: VariantFrames = "all"
    seed: int = 0
    keep: float = 0.8
    rotate: Jitter = Jitter(probability=1.0, range=(-45.0, 45.0))
    flip: Flip = field(default_factory=Flip)
    shift: Jitter = Jitter(probability=1.0, range=(-8.0, 8.0))
    scale: Jitter = Jitter(probability=0.0, range=(0.9, 1.1))
    elastic: Elastic = field(default_factory=Elastic)
    brightness: Jitter = Jitter(probability=0.5, range=(0.9, 1.15))
    contrast: Jitter = Jitter(probability=0.5, range=(0.8, 1.25))
    gamma: Jitter = Jitter(probability=0.5, range=(0.85, 1.05))
    poisson: Poisson = field(default_factory=Poisson)
    gaussian: Jitter = Jitter(probability=0.25, range=(0.0, 0.03))
    clahe: Jitter = Jitter(probability=0.1, range=(0.005, 0.02))

    def __post_init__(self) -> None:
        check_range(self.variants, 0, 100_000, "augment.variants")
        check_range(self.seed, 0, 2**62, "augment.seed")
        check_range(self.keep, 0, 1, "augment.keep (share of a cell's area)")
        check_choice(self.frames, VariantFrames, "augment.frames")
        for part in fields(self):
            _check(getattr(self, part.name), f"augment.{part.name}")
        for name, low, high, what in _BOUNDS:
            for end in getattr(self, name).range:
                check_range(end, low, high, f"augment.{name}.range ({what})")

    @property
    def set(self) -> str:
        """Digest of everything that decides what a variant looks like, but for how many there are."""
        values = dataclasses.asdict(replace(self, variants=0, frames="all"))
        values["elastic"]["alpha"] = self.elastic.alpha_range
        return digest("augment", VERSION, repr(sorted(_flat(values))))[:12]


_BOUNDS = (
    ("rotate", -180, 180, "degrees"),
    ("shift", -4096, 4096, "px"),
    ("scale", 0.2, 5, "factor"),
    ("brightness", 0, 10, "factor"),
    ("contrast", 0, 10, "factor"),
    ("gamma", 0.1, 10, "exponent"),
    ("gaussian", 0, 1, "share of the frame's range"),
    ("clahe", 1e-4, 1, "clip limit"),
)


def paper_augment(variants: int = 0) -> AugmentRecipe:
    """Return the study's way: rotation, flips, shifts and the elastic formula as written; light as acquired."""
    never = {
        name: replace(getattr(AugmentRecipe(), name), probability=0.0)
        for name in ("brightness", "contrast", "gamma", "poisson", "gaussian", "clahe")
    }
    return AugmentRecipe(variants=variants, elastic=Elastic(amplitude="literal"), **never)


def _check(part: Any, where: str) -> None:
    if isinstance(part, Jitter):
        check_range(part.probability, 0, 1, f"{where}.probability")
        _ordered(part.range, f"{where}.range")
    elif isinstance(part, Flip):
        check_range(part.horizontal, 0, 1, f"{where}.horizontal (probability)")
        check_range(part.vertical, 0, 1, f"{where}.vertical (probability)")
    elif isinstance(part, Poisson):
        check_range(part.probability, 0, 1, f"{where}.probability")
        check_range(part.photons_per_count, 1e-6, 1e9, f"{where}.photons_per_count")
    elif isinstance(part, Elastic):
        check_range(part.probability, 0, 1, f"{where}.probability")
        check_choice(part.amplitude, Amplitude, f"{where}.amplitude")
        check_range(part.sigma, 0.5, 500, f"{where}.sigma (px)")
        if part.alpha:
            _ordered(part.alpha, f"{where}.alpha")
        most = MOST_DISPLACEMENT if part.amplitude == "max" else 1e4
        check_range(part.alpha_range[0], 0, most, f"{where}.alpha under amplitude {part.amplitude!r}")
        check_range(part.alpha_range[1], 0, most, f"{where}.alpha under amplitude {part.amplitude!r}")


def _ordered(ends: tuple[float, ...], where: str) -> None:
    # TOML may hold anything
    numbers = [end for end in list[Any](ends) if type(end) in (int, float)]
    if len(ends) != 2 or len(numbers) != 2:
        raise RecipeError(f"{where} is {list(ends)}, expected two numbers, the lowest and the highest")
    if not all(math.isfinite(end) for end in numbers) or numbers[0] > numbers[1]:
        raise RecipeError(f"{where} is {list(ends)}, expected the lowest first and the highest last, both finite")


def _flat(values: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{above}{name}.")
        else:
            # 1 and 1.0 in store.toml are one range
            plain = [float(v) for v in value] if isinstance(value, tuple | list) else value
            found.append((f"{above}{name}", repr(float(plain) if isinstance(plain, int) else plain)))
    return found
