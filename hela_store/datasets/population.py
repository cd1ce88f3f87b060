"""Life of a synthetic colony: nuclei that move, push, grow and divide, one step a frame.

Times are in frames of about 30 minutes, the interval of Fluo-N2DL-HeLa; lengths in px.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr

from .nuclei import Array, Outline, random_waves, smooth_noise, spots

PATCH = 48  # side of a nucleus's texture, 4 radii across
STAGES = {2: (0.86, 1.5), 1: (0.68, 2.9)}  # frames left: relative radius, relative brightness
YOUNG = {0: (0.64, 2.3), 1: (0.76, 1.35), 2: (0.87, 1.1), 3: (0.95, 1.0)}  # age: the same


@dataclass(frozen=True, kw_only=True)
class Habitat:
    """Describe where and how the nuclei live.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the frame.
    radius : float
        Radius at birth; it has grown by a factor of sqrt(2) at division.
    cells : int
        Nuclei in the first frame, those beyond its border included.
    cycle : (int, int)
        Shortest and longest life between two divisions.
    """

    shape: tuple[int, int]
    radius: float
    cells: int
    cycle: tuple[int, int] = (34, 62)


@dataclass(kw_only=True)
class Nucleus:
    """One nucleus at one time.

    Attributes
    ----------
    name, mother, colony : int
        Track numbers from 1 (mother 0: was there from the start), and the colony it stays with.
    x, y, angle : float
        Centre, px frame, and direction of the major axis, radians.
    velocity : float64, (2,)
        px a frame.
    birth_radius, aspect, bend, brightness : float
    age, cycle : int
        Frames since birth and from birth to division.
    waves : float32, (harmonic, 2)
        See :class:`hela_store.datasets.nuclei.Outline`.
    texture : float32, (3, PATCH, PATCH)
        Two fields of grain, mean 0 and rms about 1, between which its chromatin turns slowly, and its nucleoli, -1..0.
    """

    name: int
    mother: int = 0
    colony: int = 0
    x: float
    y: float
    angle: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    birth_radius: float
    aspect: float
    bend: float
    brightness: float
    age: int
    cycle: int
    waves: Array
    texture: Array

    @property
    def left(self) -> int:
        """Frames until it divides; 0 is the last frame before the daughters."""
        return self.cycle - self.age

    @property
    def dividing(self) -> bool:
        """Whether it is condensed: before or just after a division."""
        return self.left <= 2 or (self.mother > 0 and self.age <= 0)

    @property
    def look(self) -> tuple[float, float]:
        """Radius (px) and brightness as they are seen now."""
        size, light = STAGES.get(self.left, (1.0, 1.0))
        if self.mother:
            young_size, young_light = YOUNG.get(self.age, (1.0, 1.0))
            size, light = size * young_size, light * young_light
        grown = self.birth_radius * 2 ** (0.5 * self.age / self.cycle)
        return grown * size, self.brightness * light

    def outline(self) -> Outline:
        """Shape as it is seen now: round before a division, a bar in metaphase, short bars just after."""
        aspect, bend, waves = self.aspect, self.bend, self.waves
        if self.left == 2:
            aspect, bend, waves = 0.85, 0.0, 1.5 * waves
        if self.left <= 1:
            aspect, bend = 0.36, 0.0
        if self.mother and self.age == 0:
            aspect, bend = 0.45, 0.0
        return Outline(radius=self.look[0], aspect=aspect, angle=self.angle, bend=bend, waves=waves)


def _chromatin(rng: np.random.Generator) -> Array:
    """Two textures of one nucleus: fine and coarse grain, and nucleoli, float32 (3, PATCH, PATCH)."""
    shape, middle = (PATCH, PATCH), (PATCH / 2, PATCH / 2)
    grains = [0.85 * smooth_noise(rng, shape, 1.3) + 0.5 * smooth_noise(rng, shape, 3.5) for _ in range(2)]
    holes = spots(rng, PATCH, middle, count=int(rng.integers(0, 5)), spread=6.5, sigma=1.4)
    return np.asarray([grains[0], grains[1], -np.minimum(holes, 1.0)], dtype=np.float32)


def _newborn(rng: np.random.Generator, habitat: Habitat, **given: float) -> Nucleus:
    """Return a nucleus with a drawn shape, texture and life; `given` are its name, place, light and kin."""
    cycle = int(rng.integers(*habitat.cycle, endpoint=True))
    values: dict[str, object] = {
        "angle": float(rng.uniform(0, math.pi)),
        "birth_radius": habitat.radius * math.exp(0.09 * rng.standard_normal()),
        "aspect": float(np.clip(rng.normal(0.72, 0.1), 0.48, 0.95)),
        "bend": float(rng.normal(0, 0.12)),
        "age": 0,
        "cycle": cycle,
        "waves": random_waves(rng, 0.04 * math.exp(rng.normal(0, 0.35)), harmonics=6, slope=1.0),
        "texture": _chromatin(rng),
    }
    return Nucleus(**(values | given))  # type: ignore[arg-type]


def first_generation(rng: np.random.Generator, habitat: Habitat) -> list[Nucleus]:
    """Nuclei of the first frame, in loose colonies whose members are alike in brightness."""
    rows, cols = habitat.shape
    colonies = max(1, round(habitat.cells / 6))
    centres = rng.uniform((-20.0, -20.0), (cols + 20.0, rows + 20.0), (colonies, 2))
    ranks = rng.standard_normal(colonies)
    nuclei = []
    for name in range(1, habitat.cells + 1):
        home = int(rng.integers(colonies))
        x, y = centres[home] + rng.normal(0, 4.4 * habitat.radius, 2)
        rank = float(ndtr(0.7 * ranks[home] + 0.71 * rng.standard_normal()))
        light = (45.0 + 1150.0 * rank) * (
            1.7 if rng.random() < 0.04 else 1.0
        )  # a few near the background, a few glaring
        nucleus = _newborn(rng, habitat, name=name, colony=home, x=float(x), y=float(y), brightness=light)
        nucleus.age = int(rng.integers(0, nucleus.cycle))
        nuclei.append(nucleus)
    for _ in range(40):
        _push_apart(nuclei)
    return nuclei


def _push_apart(nuclei: list[Nucleus]) -> None:
    """Move overlapping nuclei apart along the line between their centres, near ones a little (their cytoplasm)."""
    place = np.array([(n.x, n.y) for n in nuclei])
    radius = np.array([n.look[0] for n in nuclei])
    gap = place[:, None] - place[None, :]
    away = np.hypot(gap[..., 0], gap[..., 1]) + 1e-6
    reach = radius[:, None] + radius[None, :]
    deep = 0.5 * np.maximum(reach - away, 0.0) + 0.04 * np.maximum(1.6 * reach - away, 0.0)
    np.fill_diagonal(deep, 0.0)
    shift = (gap / away[..., None] * (0.5 * deep)[..., None]).sum(1)
    for nucleus, (dx, dy) in zip(nuclei, shift, strict=True):
        nucleus.x, nucleus.y = nucleus.x + float(dx), nucleus.y + float(dy)


def _daughters(rng: np.random.Generator, habitat: Habitat, mother: Nucleus, names: tuple[int, int]) -> list[Nucleus]:
    """Return the two nuclei that a division leaves, parted across the mother's metaphase plate."""
    apart = 0.85 * mother.birth_radius
    across = (-math.sin(mother.angle), math.cos(mother.angle))
    pair = []
    for side, name in zip((-1.0, 1.0), names, strict=True):
        child = _newborn(
            rng,
            habitat,
            name=name,
            mother=mother.name,
            colony=mother.colony,
            x=mother.x + side * apart * across[0],
            y=mother.y + side * apart * across[1],
            angle=mother.angle + float(rng.normal(0, 0.2)),
            brightness=mother.brightness * math.exp(rng.normal(0, 0.06)),
        )
        child.velocity = 1.2 * side * np.array(across)
        pair.append(child)
    return pair


def _move(rng: np.random.Generator, nuclei: list[Nucleus]) -> None:
    """Walk at random with persistence, weakly held by the colony's centre; let shapes and directions drift."""
    homes: dict[int, np.ndarray] = {}
    for colony in {n.colony for n in nuclei}:
        homes[colony] = np.mean([(n.x, n.y) for n in nuclei if n.colony == colony], axis=0)
    for n in nuclei:
        pull = 0.004 * (homes[n.colony] - (n.x, n.y))
        n.velocity = 0.8 * n.velocity + rng.normal(0, 0.45, 2) + pull
        n.x, n.y = n.x + float(n.velocity[0]), n.y + float(n.velocity[1])
        n.angle += float(rng.normal(0, 0.06))
        n.waves = 0.96 * n.waves + random_waves(rng, 0.011, harmonics=len(n.waves), slope=1.0)
        n.aspect = float(np.clip(n.aspect + rng.normal(0, 0.012), 0.48, 0.95))


def live(rng: np.random.Generator, habitat: Habitat, frames: int) -> Iterator[list[Nucleus]]:
    """Yield the nuclei of every frame; the lists are copies, later steps do not change them."""
    nuclei = first_generation(rng, habitat)
    last = len(nuclei)
    for _ in range(frames):
        yield [replace(n) for n in nuclei]
        after: list[Nucleus] = []
        for n in nuclei:
            n.age += 1
            if n.age < n.cycle:
                after.append(n)
                continue
            after += _daughters(rng, habitat, n, (last + 1, last + 2))
            last += 2
        nuclei = after
        _move(rng, nuclei)
        for _ in range(3):
            _push_apart(nuclei)
