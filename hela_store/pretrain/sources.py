"""Images with exact labels that ``nano`` learns from: drawn scenes and folders of real images.

Real images are split by group, not by file: many are crops of one slide, planes of one field or times of one trap, so
near-copies are grouped first and every group goes wholly into one part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage
from scipy.cluster.hierarchy import fcluster, linkage
from skimage.io import imread
from skimage.transform import resize

from hela_store.base.rng import generator
from hela_store.errors import DatasetError, RecipeError

from .scenes import scene

Part = Literal["train", "val", "test"]
SHARES: tuple[tuple[Part, float], ...] = (("test", 0.15), ("val", 0.1), ("train", 0.75))
FEW_GROUPS = 6
PLANES = re.compile(r"(_(z|tp|t)\d+)+$")
SESSION = re.compile(r"\d{4}-\d{2}-\d{2}_[A-Za-z0-9]+")
RELATED = {"set08": "set07", "set31": "set30", "set39": "set38"}
"""Fields of Usiigaci that overlap (phase correlation of all pairs)."""
LOOK_DISTANCE = 0.55
"""Features (in units of their spread) closer than this are taken for crops of one slide."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One labelled image.

    Attributes
    ----------
    name : str
    image : float32, (row, col), 0..1
    label : int32, (row, col), 0 background
    diameter : float, px, median equivalent diameter of its cells
    cells : float32, (cell, 5), ``(x, y)`` px of a box's middle, its width and height px, equivalent diameter px
    """

    name: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int32]
    diameter: float
    cells: npt.NDArray[np.float32]


def make_source(name: str, image: npt.NDArray[np.float32], label: npt.NDArray[np.int32]) -> Source | None:
    """Return a source, or None where no cell is labelled."""
    areas = np.bincount(label.ravel())
    rows = []
    for number, box in enumerate(ndimage.find_objects(label), start=1):
        if box is not None:
            (top, bottom), (left, right) = ((part.start, part.stop) for part in box)
            middle = (left + right - 1) / 2, (top + bottom - 1) / 2
            rows.append((*middle, right - left, bottom - top, math.sqrt(4 * areas[number] / math.pi)))
    if not rows:
        return None
    cells = np.array(rows, np.float32)
    return Source(name=name, image=image, label=label, diameter=float(np.median(cells[:, 4])), cells=cells)


def synthetic_sources(seed: int, first: int, count: int, size: int = 512) -> Iterator[Source]:
    """Yield drawn scenes ``first .. first + count - 1`` of the endless series of ``seed`` (those with cells)."""
    for number in range(first, first + count):
        source = make_source(f"scene-{number}", *scene(generator("scene", seed, number), size))
        if source is not None:
            yield source


def read_sources(root: Path) -> dict[Part, list[Source]]:
    """Read ``images/*.png`` and ``masks/*.tif`` of a folder and split them by group.

    Raises
    ------
    DatasetError
        The folder holds no images, an image has no mask, or the two differ in size.
    """
    paths = sorted((root / "images").glob("*.png"))
    if not paths:
        raise DatasetError(
            f"no PNG images in {root / 'images'}; expected images/*.png and masks/*.tif of the same stem"
        )
    sources = []
    for path in paths:
        mask = next(iter(sorted((root / "masks").glob(f"{path.stem}.tif*"))), None)
        if mask is None:
            raise DatasetError(f"{path} has no mask in {root / 'masks'}; expected {path.stem}.tif there")
        image, label = imread(path).astype(np.float32), tifffile.imread(mask).astype(np.int32)
        if image.shape != label.shape:
            raise DatasetError(f"{path} is {image.shape}, its mask {label.shape}; expected one grey plane of one size")
        low, high = np.percentile(image, [0.1, 99.9])
        scaled = np.clip((image - low) / max(high - low, 1.0), 0, 1).astype(np.float32)
        source = make_source(path.stem, scaled, label)
        if source is not None:
            sources.append(source)
    parts: dict[Part, list[Source]] = {"train": [], "val": [], "test": []}
    for source, part in zip(sources, split_by_group(sources), strict=True):
        parts[part].append(source)
    return parts


def split_by_group(sources: list[Source]) -> list[Part]:
    """Assign every source to a part: images of one group stay together, sizes are spread over the parts.

    A group is what has one look (average-linkage clustering, within one image size, of brightness, contrast,
    crowding and cell size) or one origin (:func:`origin`). Groups are dealt out in an order drawn from their
    members' names until each part of that size has its share; where they are few, the smallest first, so that most
    is left to learn from.
    """
    parts: list[Part] = ["train"] * len(sources)
    groups: list[list[int]] = []
    for shape in sorted({source.image.shape for source in sources}):
        index = [i for i, source in enumerate(sources) if source.image.shape == shape]
        found = _groups([sources[i] for i in index])
        members = [[i for i, h in zip(index, found, strict=True) if h == g] for g in sorted(set(found))]
        groups += members
        members.sort(key=lambda group: float(generator("dsb-split", min(sources[i].name for i in group)).random()))
        if len(members) < FEW_GROUPS:
            members.sort(key=len)
        filled = 0
        for group in members:
            part = _part_at(filled / len(index)) if len(members) > 2 else "train"
            for i in group:
                parts[i] = part
            filled += len(group)
    if len(groups) > 2 and "val" not in parts:
        # something has to choose: one group of a part that has several, the smallest
        spare = [g for g in groups if sum(parts[h[0]] == parts[g[0]] for h in groups) > 1]
        for i in min(spare, key=lambda group: (parts[group[0]] == "train", len(group), sources[group[0]].name)):
            parts[i] = "val"
    return parts


def origin(name: str) -> str:
    """Say which field or session an image is of: its name without plane and time, or a leading date and line."""
    session = SESSION.match(name)
    return session[0] if session else RELATED.get(name, PLANES.sub("", name))


def _groups(sources: list[Source]) -> list[int]:
    """Return a number for each source, alike where they share a look or an origin, also over others."""
    groups = _look_groups(sources)
    first: dict[str, int] = {}
    for i, source in enumerate(sources):
        same = first.setdefault(origin(source.name), groups[i])
        groups = [same if g == groups[i] else g for g in groups] if groups[i] != same else groups
        first = {name: same if g not in groups else g for name, g in first.items()}
    return groups


def _part_at(share: float) -> Part:
    total = 0.0
    for part, part_share in SHARES:
        total += part_share
        if share < total - 1e-9:
            return part
    return SHARES[-1][0]


def _look_groups(sources: list[Source]) -> list[int]:
    if len(sources) == 1:
        return [0]
    features = np.array([_look(source) for source in sources])
    spread = np.maximum(features.std(0), 1e-3)
    links = linkage(features / spread, method="average", metric="chebyshev")
    return [int(g) for g in fcluster(links, LOOK_DISTANCE, criterion="distance")]


def _look(source: Source) -> list[float]:
    image, inside = source.image, source.label > 0
    count = len(np.unique(source.label)) - 1
    small = resize(image, (64, 64), anti_aliasing=True)
    noise = float(np.median(np.abs(np.diff(image, axis=1)))) + 1e-3
    return [
        np.log(source.diameter),
        np.log(count / image.size),
        float(np.log(image[~inside].mean() + 0.01)),
        float(np.log(image[inside].mean() + 0.01)),
        float(np.log(small.std() + 0.01)),
        np.log(noise),
    ]


FEW_CELLS = 20
BY_SIZE = 0.6
"""Part of the draws in which every size of cell has one chance: where cells are large, few fit into an image."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Sources of one origin, of which cells are drawn: each with equal chance, or each octave of diameters with one.

    Attributes
    ----------
    name : str
    weight : float
        Share of the crops, relative to the other pools.
    sources : the images
    """

    name: str
    weight: float
    sources: list[Source]

    @cached_property
    def upto(self) -> npt.NDArray[np.int64]:
        """Number of cells of the sources up to each."""
        return np.cumsum([len(source.cells) for source in self.sources])

    @cached_property
    def octaves(self) -> list[npt.NDArray[np.int64]]:
        """Numbers of the cells whose diameters lie within a factor of two; a few odd ones join the next."""
        octave = np.floor(np.log2(np.concatenate([source.cells[:, 4] for source in self.sources])))
        values, counts = np.unique(octave, return_counts=True)
        common = values[counts >= min(FEW_CELLS, counts.max())]
        octave = octave.clip(common.min(), common.max())
        return [np.flatnonzero(octave == value) for value in np.unique(octave)]

    def draw(self, rng: np.random.Generator) -> tuple[Source, int]:
        """Draw a cell: its source and its row in ``cells``."""
        if rng.random() < BY_SIZE:
            members = self.octaves[int(rng.integers(len(self.octaves)))]
            number = int(members[rng.integers(len(members))])
        else:
            number = int(rng.integers(self.upto[-1]))
        which = int(np.searchsorted(self.upto, number, side="right"))
        return self.sources[which], number - int(self.upto[which]) + len(self.sources[which].cells)


def parse_data(text: str) -> tuple[Path, float]:
    """Read ``FOLDER[:WEIGHT]``.

    Raises
    ------
    RecipeError
        The weight is no positive number.
    """
    folder, colon, weight = text.rpartition(":")
    if not colon or "/" in weight:
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise RecipeError(f"{text}: the weight is {weight!r}, expected a positive number such as {folder}:2")
    return Path(folder), value
