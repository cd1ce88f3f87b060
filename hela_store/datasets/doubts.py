"""Doubts about a data set that its pixels raise: labels that are no cells, images that are labels, ordered stills.

Nothing here is certain, so most of it is a warning; labels that cannot be one number a cell are refused.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hela_store.errors import DatasetError
from hela_store.images.labels import compact

from .entries import Entry
from .pixels import read_image

T = TypeVar("T")
MANY_PIECES = 3
"""A value in so many pieces of like size is no cell; two are, where a neighbour lies across it."""
LARGE_PIECE = 0.25
"""Share of the largest piece of a value from which a piece counts: specks beside a cell do not."""
MOST_OF_FRAME = 0.5
SHORTEST_LAPSE = 4
ALIKE = 0.5
"""Least correlation of neighbours in time; cells of other fields of view correlate near 0."""
_PAIRS, _SERIES, _SIDE = 4, 3, 256


@dataclass(frozen=True, kw_only=True)
class LabelLook:
    """Values of one label image, with the pieces of similar size and the share of the frame of each."""

    frame: str
    values: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]

    @property
    def scattered(self) -> npt.NDArray[np.bool_]:
        """Return which values lie in too many pieces for a cell, bool, (values,); of a lone value two are too many."""
        return self.pieces >= (MANY_PIECES if len(self.values) > 1 else MANY_PIECES - 1)


def look_at_label(frame: str, label: np.ndarray) -> LabelLook:
    """Count the pieces of every value of a label image, int, (row, col), 0 background."""
    from skimage.measure import label as components

    ids, index = compact(label)
    parts = components(index, connectivity=2)
    areas = np.bincount(parts.ravel())
    owner = np.zeros(areas.size, np.int64)
    owner[parts.ravel()] = index.ravel()
    areas, owner = areas[1:], owner[1:]
    largest = np.zeros(ids.size, np.int64)
    np.maximum.at(largest, owner, areas)
    pieces = np.bincount(owner[areas >= LARGE_PIECE * largest[owner]], minlength=ids.size)
    total = np.bincount(owner, areas, minlength=ids.size)
    present = np.flatnonzero(total)
    return LabelLook(frame=frame, values=ids[present], pieces=pieces[present], shares=total[present] / label.size)


def refuse_labels(looks: Sequence[LabelLook]) -> None:
    """Raise DatasetError where label values are no numbers of cells: one for all, or half of them in many pieces."""
    for text in _scattered(looks, least=0.5):
        kind = "classes" if any(len(look.values) > 1 for look in looks) else "masks of all cells"
        raise DatasetError(
            f"the label images look like {kind}: {text}; number the pieces (Python: skimage.measure.label(mask); "
            "Fiji: MorphoLibJ > Connected Components Labeling), or use --labels none"
        )


def doubts_of_labels(looks: Sequence[LabelLook]) -> tuple[str, ...]:
    """Return warnings about label images: values in many pieces, and values over most of a frame."""
    return (*_scattered(looks), *_large(looks))


def _scattered(looks: Sequence[LabelLook], least: float = 0.0) -> tuple[str, ...]:
    looks = [look for look in looks if len(look.values)]
    values = sum(len(look.values) for look in looks)
    scattered = sum(int(look.scattered.sum()) for look in looks)
    if not scattered or scattered < least * values:
        return ()
    worst = max(looks, key=lambda look: int(look.pieces.max()))
    value, pieces = worst.values[worst.pieces.argmax()], worst.pieces.max()
    return (
        f"{scattered} of {values} label values looked at lie in several pieces (value {value}: {pieces} separate "
        f"pieces in {worst.frame}) where one number a cell is meant",
    )


def _large(looks: Sequence[LabelLook]) -> tuple[str, ...]:
    looks = [look for look in looks if len(look.values)]
    large = [(look.frame, look.values[look.shares.argmax()], look.shares.max()) for look in looks]
    large = [(frame, value, share) for frame, value, share in large if share > MOST_OF_FRAME]
    if not large:
        return ()
    frame, value, share = max(large, key=lambda one: one[2])
    return (
        f"one label value covers more than half of the frame in {len(large)} of {len(looks)} label images (value "
        f"{value}: {100 * share:.0f} % of {frame}): is it the background? it has to be 0",
    )


def doubts_of_images(images: Sequence[tuple[str, np.ndarray]]) -> tuple[str, ...]:
    """Return a warning that names the frames that look like label images; ``images`` are (frame id, (row, col))."""
    odd = [frame for frame, image in images if _looks_like_labels(image)]
    if not odd:
        return ()
    few = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    return (
        f"{len(odd)} of {len(images)} frames looked at look like label images, whole patches of one value ({few}); if "
        "they are, move them into masks/ under the names of their images",
    )


def _looks_like_labels(image: np.ndarray) -> bool:
    """Return whether most pixels that are not 0 equal all their neighbours, as no picture of a camera has it."""
    inside = image != 0
    if image.dtype.kind not in "ui" or not inside.any() or inside.all() or image.min() == image.max():
        return False
    flat = ndimage.maximum_filter(image, 3) == ndimage.minimum_filter(image, 3)
    eroded = ndimage.binary_erosion(inside, np.ones((3, 3)))
    return bool(eroded.sum() > 0.2 * inside.sum() and flat[eroded].mean() > 0.8)


def time_lapses(entries: Sequence[Entry]) -> tuple[tuple[int, ...], ...]:
    """Return the frame numbers of stills that form a time-lapse: their names count up and neighbours look alike.

    Only few frames are read.
    """
    found = [group for group in _counting(entries) if len(group) >= SHORTEST_LAPSE]
    seen = [value for group in spread(found, _SERIES) for value in _neighbours(group)]
    if not seen or float(np.median(seen)) < ALIKE:
        return ()
    return tuple(tuple(entry.time for entry in group) for group in found)


def _counting(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group frames whose names differ in one number only, in its order, where it rises in even steps."""
    skeletons: dict[str, list[tuple[tuple[int, ...], Entry]]] = defaultdict(list)
    for entry in entries:
        numbers = tuple(int(digits) for digits in re.findall(r"[0-9]+", entry.name))
        skeletons[re.sub(r"[0-9]+", "#", entry.name)].append((numbers, entry))
    groups: list[list[Entry]] = []
    for members in skeletons.values():
        width = len(members[0][0])
        ways = []
        for position in range(width):
            parts: dict[tuple[int, ...], list[tuple[int, Entry]]] = defaultdict(list)
            for numbers, entry in members:
                parts[numbers[:position] + numbers[position + 1 :]].append((numbers[position], entry))
            ways.append([sorted(part, key=lambda one: one[0]) for part in parts.values()])
        for part in min(ways, key=len, default=[]):
            steps = Counter(b - a for (a, _), (b, _) in itertools.pairwise(part))
            if steps and steps.most_common(1)[0][1] >= 0.8 * (len(part) - 1):
                groups.append([entry for _, entry in part])
    return groups


def _neighbours(group: Sequence[Entry]) -> list[float]:
    pairs = [(a, b) for a, b in itertools.pairwise(group) if a.image.shape == b.image.shape]
    found = [_correlation(read_image(a.image), read_image(b.image)) for a, b in spread(pairs, _PAIRS)]
    return [value for value in found if np.isfinite(value)]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two images without their noise and their uneven light."""
    step = max(1, max(first.shape) // _SIDE)
    details = []
    for image in (first, second):
        smooth = ndimage.gaussian_filter(image.astype(np.float32), 2.0 * step)[::step, ::step]
        detail = smooth - ndimage.gaussian_filter(smooth, max(smooth.shape) / 8)
        details.append((detail - detail.mean()).ravel())
    size = float(np.linalg.norm(details[0]) * np.linalg.norm(details[1]))
    return float(details[0] @ details[1]) / size if size > 0 else float("nan")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of the items, evenly spaced, the first and the last among them."""
    return [items[int(i)] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round())]
