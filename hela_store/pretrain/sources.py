"""Images with exact labels that ``nano`` learns from: drawn scenes and the CC0 stills of DSB 2018 (BBBC038).

The stills are split by look, not by file: many are crops of one slide, so near-duplicates are grouped first and every
group goes wholly into one part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tifffile
from scipy.cluster.hierarchy import fcluster, linkage
from skimage.io import imread
from skimage.transform import resize

from hela_store.base.rng import generator
from hela_store.errors import DatasetError

from .scenes import scene

Part = Literal["train", "val", "test"]
SHARES: tuple[tuple[Part, float], ...] = (("test", 0.15), ("val", 0.1), ("train", 0.75))
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
    """

    name: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int32]
    diameter: float


def make_source(name: str, image: npt.NDArray[np.float32], label: npt.NDArray[np.int32]) -> Source | None:
    """Return a source, or None where no cell is labelled."""
    areas = np.bincount(label.ravel())[1:]
    areas = areas[areas > 0]
    if len(areas) == 0:
        return None
    return Source(name=name, image=image, label=label, diameter=float(np.median(np.sqrt(4 * areas / np.pi))))


def synthetic_sources(seed: int, first: int, count: int, size: int = 512) -> Iterator[Source]:
    """Yield drawn scenes ``first .. first + count - 1`` of the endless series of ``seed`` (those with cells)."""
    for number in range(first, first + count):
        source = make_source(f"scene-{number}", *scene(generator("scene", seed, number), size))
        if source is not None:
            yield source


def dsb_sources(root: Path) -> dict[Part, list[Source]]:
    """Read ``images/*.png`` and ``masks/*.tif`` and split them by look.

    Raises
    ------
    DatasetError
        The folder holds no images, or an image has no mask.
    """
    paths = sorted((root / "images").glob("*.png"))
    if not paths:
        raise DatasetError(f"no PNG images in {root / 'images'}; expected the stills of DSB 2018 (BBBC038)")
    sources = []
    for path in paths:
        mask = next(iter(sorted((root / "masks").glob(f"{path.stem}.tif*"))), None)
        if mask is None:
            raise DatasetError(f"{path} has no mask in {root / 'masks'}")
        image = imread(path).astype(np.float32)
        low, high = np.percentile(image, [0.1, 99.9])
        scaled = np.clip((image - low) / max(high - low, 1.0), 0, 1).astype(np.float32)
        source = make_source(path.stem, scaled, tifffile.imread(mask).astype(np.int32))
        if source is not None:
            sources.append(source)
    parts: dict[Part, list[Source]] = {"train": [], "val": [], "test": []}
    for source, part in zip(sources, split_by_look(sources), strict=True):
        parts[part].append(source)
    return parts


def split_by_look(sources: list[Source]) -> list[Part]:
    """Assign every source to a part: images of one size and look stay together, sizes are spread over the parts.

    Groups come from average-linkage clustering, within one image size, of brightness, contrast, crowding and cell size;
    they are dealt out in an order drawn from their members' names until each part of that size has its share.
    """
    parts: list[Part] = ["train"] * len(sources)
    for shape in sorted({source.image.shape for source in sources}):
        index = [i for i, source in enumerate(sources) if source.image.shape == shape]
        groups = _look_groups([sources[i] for i in index])
        names = {g: min(sources[i].name for i, h in zip(index, groups, strict=True) if h == g) for g in set(groups)}
        order = sorted(names, key=lambda g: float(generator("dsb-split", names[g]).random()))
        filled = 0
        for group in order:
            members = [i for i, h in zip(index, groups, strict=True) if h == group]
            part = _part_at(filled / len(index)) if len(set(groups)) > 2 else "train"
            for i in members:
                parts[i] = part
            filled += len(members)
    return parts


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
