"""Say what the U-Net learns of a label image, and how its answer becomes one again.

Background, nucleus and border, as in Caicedo et al. ("Evaluation of deep learning strategies for nucleus segmentation
in fluorescence images", Cytometry A 2019): the border keeps touching cells apart, a watershed gives it back to them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import segmentation

from hela_store.base.aliases import BoolArray, LabelArray

from .found import Labels

BACKGROUND, NUCLEUS, BORDER = 0, 1, 2
IGNORED = -1
"""Class of pixels that say nothing (rule "valid pixels")."""
BORDER_SIDE = 5
"""Side of the window, px of the network, that makes a cell's pixel a border where it holds anything else."""


@dataclass(frozen=True, kw_only=True)
class UnetParameters:
    """Describe how probabilities become cells.

    Attributes
    ----------
    seed : least probability of nucleus in a seed
    mask : least probability of nucleus or border in a cell
    least : least area, in areas of the median training cell
    """

    seed: float
    mask: float
    least: float


USUAL = UnetParameters(seed=0.6, mask=0.5, least=0.15)
TRIED = tuple(
    UnetParameters(seed=seed, mask=mask, least=least)
    for seed, mask, least in itertools.product((0.4, 0.5, 0.6, 0.7, 0.8), (0.4, 0.5, 0.6), (0.05, 0.15))
)
"""What is tried on validation."""


def targets(label: LabelArray, valid: BoolArray) -> npt.NDArray[np.int64]:
    """Return the class of each pixel, int64 (row, col); :data:`IGNORED` where ``valid`` is False."""
    inner = ndimage.minimum_filter(label, BORDER_SIDE) == ndimage.maximum_filter(label, BORDER_SIDE)
    classes = np.where(label > 0, np.where(inner, NUCLEUS, BORDER), BACKGROUND)
    return np.where(valid, classes, IGNORED).astype(np.int64)


def cells(probability: npt.NDArray[np.float32], parameters: UnetParameters, median_area: float) -> Labels:
    """Make a label image.

    Parameters
    ----------
    probability : float32, (3, row, col)
        Of background, nucleus and border, at the frame's own size.
    median_area : float, px
        Of the training cells.

    Returns
    -------
    int32, (row, col)
        0 background, 1 to n.
    """
    nucleus = probability[NUCLEUS]
    seeds, _ = ndimage.label(nucleus >= parameters.seed)
    inside = nucleus + probability[BORDER] >= parameters.mask
    label = segmentation.watershed(-nucleus, seeds, mask=inside | (seeds > 0))
    areas = np.bincount(label.ravel())
    label = np.where(areas[label] >= max(parameters.least * median_area, 1), label, 0)
    return np.asarray(segmentation.relabel_sequential(label)[0], np.int32)
