"""Draw one variant of a view as a pure function of (seed, frame, tile, variant) and the recipe's ranges."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.base.rng import generator

from . import elastic
from .ranges import AugmentRecipe, Jitter

DAMPED_TOO_OFTEN = 0.05
"""Share of damped draws above which a range is reported."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Parameters of one variant; the defaults do nothing.

    Attributes
    ----------
    set : of the ranges it was drawn from
    seed : of its fields and noise
    rotate : degrees, counter-clockwise as shown
    flip_x, flip_y : mirrored left to right, top to bottom
    shift_x, shift_y : px by which the content moves along the axes of the frame
    scale : factor by which the content grows
    sigma, alpha, amplitude : of the elastic field, see :class:`hela_store.augment.ranges.Elastic`
    damping : factor on the field, below 1 where it would have folded
    jacobian : smallest determinant of the map from view to frame, a mirror's sign taken off
    brightness, contrast, gamma : factors and exponent
    photons : a count, of the shot noise; 0 for none
    gaussian : standard deviation as a share of the frame's range
    clahe : clip limit; 0 for none
    keep : least share of its area by which a cell is one of the view's
    """

    set: str = ""
    seed: int = 0
    rotate: float = 0.0
    flip_x: bool = False
    flip_y: bool = False
    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    sigma: float = 10.0
    alpha: float = 0.0
    amplitude: str = "rms"
    damping: float = 1.0
    jacobian: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    photons: float = 0.0
    gaussian: float = 0.0
    clahe: float = 0.0
    keep: float = 0.8

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """The map of directions (x, y) from view to frame, without the elastic part, (2, 2)."""
        angle = math.radians(self.rotate)
        # rows run down, so a turn that looks counter-clockwise has this sign; the map goes from view to frame
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return turn @ np.diag([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0]) / self.scale

    @property
    def keeps_place(self) -> bool:
        """Whether nothing moves."""
        moved = (self.rotate, self.shift_x, self.shift_y, self.alpha, self.flip_x, self.flip_y)
        return self.scale == 1 and not any(moved)

    def field(self, shape_rc: tuple[int, int]) -> elastic.Field:
        """Return the elastic displacement without damping, float32, (2, row, col), px of the frame."""
        rng = generator("elastic", self.seed)
        return elastic.displacement(rng, shape_rc, self.sigma, self.alpha, self.amplitude)

    def to_json(self) -> str:
        """Return the text that the plan keeps, its keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)


def parse_variant(params: str | dict[str, Any]) -> Variant:
    """Read :meth:`Variant.to_json` back; ``"{}"`` is the view as acquired."""
    values = json.loads(params) if isinstance(params, str) else params
    known = {part.name for part in fields(Variant)}
    return Variant(**{name: value for name, value in values.items() if name in known})


def draw_variant(recipe: AugmentRecipe, frame: str, tile: int, variant: int, shape_rc: tuple[int, int]) -> Variant:
    """Draw a variant and damp it until it does not fold.

    Parameters
    ----------
    recipe : AugmentRecipe
    frame, tile, variant : str, int, int
        Which; ``variant`` from 1.
    shape_rc : (int, int)
        Rows and columns of the view, px.
    """
    key = ("augment", recipe.seed, frame, tile, variant)

    def drawn(name: str, jitter: Jitter, otherwise: float, axis: int = 0) -> float:
        # a generator for each transform, so that one's probability does not move another's draw
        chosen, place = generator(*key, name).random(), generator(*key, name, axis).random()
        low, high = jitter.range
        return float(low + (high - low) * place) if chosen < jitter.probability else otherwise

    bent = Jitter(probability=recipe.elastic.probability, range=recipe.elastic.alpha_range)
    mirror = generator(*key, "flip").random(2)
    found = Variant(
        set=recipe.set,
        seed=int(generator(*key, "seed").integers(2**62)),
        rotate=drawn("rotate", recipe.rotate, 0.0),
        flip_x=bool(mirror[0] < recipe.flip.horizontal),
        flip_y=bool(mirror[1] < recipe.flip.vertical),
        shift_x=drawn("shift", recipe.shift, 0.0),
        shift_y=drawn("shift", recipe.shift, 0.0, axis=1),
        scale=drawn("scale", recipe.scale, 1.0),
        sigma=recipe.elastic.sigma,
        alpha=drawn("elastic", bent, 0.0),
        amplitude=recipe.elastic.amplitude,
        brightness=drawn("brightness", recipe.brightness, 1.0),
        contrast=drawn("contrast", recipe.contrast, 1.0),
        gamma=drawn("gamma", recipe.gamma, 1.0),
        photons=recipe.poisson.photons_per_count
        if generator(*key, "poisson").random() < recipe.poisson.probability
        else 0.0,
        gaussian=drawn("gaussian", recipe.gaussian, 0.0),
        clahe=drawn("clahe", recipe.clahe, 0.0),
        keep=recipe.keep,
    )
    if found.alpha == 0:
        return replace(found, jacobian=abs(float(np.linalg.det(found.linear))))
    damping, jacobian = elastic.damped(found.linear, found.field(shape_rc))
    return replace(found, damping=damping, jacobian=jacobian)
