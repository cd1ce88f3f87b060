"""Say which stills look alike: copies of one image, and images that may be of one slide.

A random split of single stills puts crops of one slide into training and test. So stills of like look are grouped, and
a group goes whole into one block of the split. Two measures, neither of which needs labels:

- *Copies*: the correlation of small images without their uneven light, over all turns and mirrorings. On the 450 stills
  of DSB 2018 no pair lies between 0.55 and 0.9.
- *Look*: image size, quantiles of brightness, noise and the strength of details at five scales, within
  :data:`LOOK_DISTANCE`. Looks are a continuum, so such groups lessen a leak and do not prove that there is none.

Groups grow and never move: a still joins the group whose first member it is most like, or begins one, so a still that
is added later changes the group of no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.transform import resize

Floats = npt.NDArray[np.float32]
By = Literal["look", "copies"]
COPY = 0.8
"""Correlation from which two stills are taken for copies of one image."""
LOOK_DISTANCE = 0.3
"""Greatest difference in any feature (natural logarithms) within which stills have one look."""
SIDE = 24
"""Side of the small images that are compared, px."""
_QUANTILES = (10, 50, 75, 90, 97)
_SCALES = (1, 2, 4, 8)
_FEATURES = len(_QUANTILES) + len(_SCALES) + 4
_SIZE_WEIGHT = 10.0
_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Describe what stills look like, one row a still.

    Attributes
    ----------
    features : float32, (stills, features)
        Logarithms of size, brightness, noise and details.
    small : float32, (stills, SIDE * SIDE)
        Small images without their uneven light, of length 1; zeros for a blank one.
    """

    features: Floats
    small: Floats

    @classmethod
    def of(cls, looks: Sequence[bytes]) -> Looks:
        """Read what :func:`look_of` wrote, for each still."""
        width = 4 * _FEATURES
        features = np.array([np.frombuffer(look[:width], "<f4") for look in looks], np.float32)
        small = np.array([np.frombuffer(look[width:], np.int8) for look in looks], np.float32)
        small = small.reshape(len(looks), SIDE * SIDE)
        length = np.linalg.norm(small, axis=1, keepdims=True)
        return cls(features=features.reshape(len(looks), _FEATURES), small=small / np.maximum(length, 1))


def look_of(image: npt.NDArray[Any]) -> bytes:
    """Return what a still looks like, for :meth:`Looks.of`: 13 little-endian float32, then 24 x 24 int8.

    Parameters
    ----------
    image : (row, col), any type
    """
    pixels = image.astype(np.float32)
    low, high = np.percentile(pixels, [0.1, 99.9])
    pixels = np.clip((pixels - low) / max(float(high - low), 1e-6), 0, 1)
    bands = [float((pixels - ndimage.gaussian_filter(pixels, scale)).std()) for scale in _SCALES]
    noise = float(np.median(np.abs(np.diff(pixels, axis=1)))) if pixels.shape[1] > 1 else 0.0
    features = [
        *(_SIZE_WEIGHT * np.log(pixels.shape)),
        *np.log(np.percentile(pixels, _QUANTILES) + 0.01),
        *np.log([noise + 1e-3, *(band + 1e-3 for band in bands), float(pixels.std()) + 0.01]),
    ]
    small = resize(pixels, (SIDE, SIDE), anti_aliasing=True)
    detail = small - ndimage.gaussian_filter(small, SIDE / 8)
    detail -= detail.mean()
    scaled = np.round(127 * detail / max(float(np.abs(detail).max()), 1e-6))
    return np.array(features, "<f4").tobytes() + scaled.astype(np.int8).tobytes()


def nearest_copies(looks: Looks) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return for each still the earlier one it is most like in any turn or mirroring, and their correlation.

    Returns
    -------
    earlier : int64, (stills,)
        -1 for the first.
    correlation : float32, (stills,)
    """
    count = len(looks.small)
    earlier, best = np.full(count, -1, np.int64), np.full(count, -1, np.float32)
    turned = _turned(looks.small)
    for first in range(0, count, _BATCH):
        rows = looks.small[first : first + _BATCH]
        last = first + len(rows)
        likeness = np.max([rows @ other[:last].T for other in turned], axis=0)
        likeness[np.arange(last)[None] >= np.arange(first, last)[:, None]] = -1
        earlier[first:last], best[first:last] = likeness.argmax(1), likeness.max(1)
    earlier[best < 0] = -1
    return earlier, best


def copies(looks: Looks) -> list[tuple[int, int]]:
    """Return the stills that are a copy of an earlier one, each as (earlier, later)."""
    earlier, best = nearest_copies(looks)
    return [(int(earlier[i]), int(i)) for i in np.flatnonzero(best >= COPY)]


def look_groups(looks: Looks, by: By = "look") -> list[int]:
    """Return the first member of the group of each still.

    Parameters
    ----------
    looks : Looks
        In the order in which the stills came.
    by : ``"copies"`` for copies alone, ``"look"`` also for stills of one look
    """
    groups = list(range(len(looks.small)))
    leaders: list[int] = []
    copied = {later: earlier for earlier, later in copies(looks)}
    for still in range(len(groups)):
        if still in copied:
            groups[still] = groups[copied[still]]
        elif by == "look":
            apart = np.abs(looks.features[leaders] - looks.features[still]).max(1) if leaders else np.full(1, np.inf)
            nearest = int(apart.argmin())
            if apart[nearest] < LOOK_DISTANCE:
                groups[still] = leaders[nearest]
            else:
                leaders.append(still)
    return groups


def _turned(small: Floats) -> list[Floats]:
    """Return small images in their eight turns and mirrorings."""
    images = small.reshape(-1, SIDE, SIDE)
    turns = [np.rot90(images, turn, axes=(1, 2)) for turn in range(4)]
    return [np.ascontiguousarray(way).reshape(small.shape) for turn in turns for way in (turn, turn[:, :, ::-1])]
