"""Measure what speaks for and against a label: its shape, the image, neighbours in time, decoder and detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import regionprops

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.detection.detections import Detections
from hela_store.images.boxes import box_iou
from hela_store.images.rle import bbox, paste, trim
from hela_store.metrics.overlap import iou
from hela_store.sam.predict import Prediction

from .cases import Case

SIGNS = {
    "size": "its area is {:.1f} times the usual",
    "solidity": "{:.0%} of its convex hull is filled",
    "roughness": "smoothing its outline moves {:.0%} of its pixels",
    "thickness": "its thickest place is {:.2f} of its diameter",
    "pieces": "{:.0%} of its pixels lie apart from the largest piece",
    "contrast": "it is {:.1f} spreads of the frame brighter than its surroundings",
    "texture": "brightness inside varies by {:.1f} spreads of the frame",
    "edge": "its outline has {:.2f} times the contrast of other edges near it",
    "overlap": "the best neighbour in time overlaps it by IoU {:.2f}",
    "overlap_least": "the other neighbour in time overlaps it by IoU {:.2f}",
    "growth": "its area differs from its neighbours in time by a factor of {:.1f}",
    "covers": "it covers {:.0f} labels of a frame before or after",
    "siblings": "{:.0f} labels share the place of one cell of a frame before or after",
    "renamed": "in {:.0f} frames before or after, the cell at its place has another number",
    "mask_answer": "given the label, the decoder answers with IoU {:.2f} to it",
    "box_answer": "given its box, the decoder answers with IoU {:.2f} to it",
    "agreement": "the answers to box and label agree with IoU {:.2f}",
    "mask_confidence": "the decoder expects IoU {:.2f} of its answer to the label",
    "box_confidence": "the decoder expects IoU {:.2f} of its answer to the box",
    "box_growth": "the answer to its box has {:.1f} times its area",
    "spill": "{:.0%} of the answer to its box lie on other labels",
    "detection": "the best detection has score times box IoU {:.2f}",
    "detections": "{:.0f} detections lie in it",
    "oddity": "its embedding is {:.1f} times as far from those of other labels as usual",
}
"""Signs, in the order of their columns, and how each is said; :data:`FACTORS` are kept as base-2 logarithms."""
FACTORS = ("size", "growth", "box_growth", "oddity")
TIME = ("overlap", "overlap_least", "growth", "covers", "siblings", "renamed")
"""Signs that the frames before and after give."""
ANSWERS = (
    *("mask_answer", "box_answer", "agreement", "mask_confidence", "box_confidence", "box_growth", "spill"),
    *("detection", "detections"),
)
"""Signs that decoder and detector give."""
ONE_PLACE = 0.5
"""Share of one label in another above which they are at one place."""
SURE = 0.4
"""Score from which a detection in a label is counted."""

Signs = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The image, neighbours in time and detections around a label, in the crop of its context.

    Attributes
    ----------
    image : float64, (row, col), counts
    spread : standard deviation of the whole frame's image
    near : label images of the frames before and after, integer, (row, col)
    tracked : whether labels keep their numbers over time
    found : detections of the whole frame
    area : usual area of a label, px
    """

    image: npt.NDArray[np.float64]
    spread: float
    near: Sequence[LabelArray]
    tracked: bool
    found: Detections
    area: float


def signs(case: Case, about: Surroundings, box: Prediction, mask: Prediction | None) -> Signs:
    """Return the signs of a label but its oddity; NaN for what cannot be measured, such as time in stills.

    Parameters
    ----------
    case : a label, or a place with its label painted in
    about : Surroundings
    box, mask : the decoder's answers to the label's box and to the label; None of a place
    """
    own = case.context.mask
    return {
        **_shape(own, about.area),
        **_image(own, case.context.labels, about),
        **_time(case, about),
        **_answers(case, box, mask),
        **_detections(case, about.found),
    }


def _shape(own: BoolArray, area: float) -> Signs:
    (part,) = regionprops(own.astype(np.uint8))
    pieces, count = ndimage.label(own)
    sizes = np.bincount(pieces.ravel())[1:] if count else np.array([1])
    diameter = math.sqrt(4 * own.sum() / math.pi)
    smooth = ndimage.gaussian_filter(np.pad(own, 4).astype(np.float32), max(1.0, 0.08 * diameter))[4:-4, 4:-4] > 0.5
    depth = float(ndimage.distance_transform_edt(np.pad(own, 1)).max())
    return {
        "size": math.log2(own.sum() / area),
        "solidity": float(part.solidity),
        "roughness": 1 - iou(own, smooth),
        "thickness": 2 * depth / diameter,
        "pieces": 1 - sizes.max() / sizes.sum(),
    }


def _image(own: BoolArray, labels: LabelArray, about: Surroundings) -> Signs:
    width = max(2, round(0.2 * math.sqrt(own.sum())))
    wide = ndimage.binary_dilation(own, iterations=width)
    ring = wide & (labels == 0) & ~ndimage.binary_dilation(own, iterations=1)
    inside, spread = about.image[own], max(about.spread, 1e-9)
    smooth = ndimage.gaussian_filter(about.image, 1.0)
    slope = np.hypot(*np.gradient(smooth))
    rim = own & ~ndimage.binary_erosion(own, border_value=1)
    rest = slope[wide]
    return {
        "contrast": (float(inside.mean()) - float(about.image[ring].mean())) / spread if ring.any() else math.nan,
        "texture": float(inside.std()) / spread,
        "edge": float(slope[rim].mean()) / max(float(np.quantile(rest, 0.8)), 1e-9) if rim.any() else math.nan,
    }


def _time(case: Case, about: Surroundings) -> Signs:
    own, number = case.context.mask, case.context.label
    best, growth, covers, siblings, other = [], [], 0, 0, 0
    for labels in about.near:
        shared = np.bincount(labels[own], minlength=int(labels.max()) + 1)
        areas = np.bincount(labels.ravel(), minlength=len(shared))
        shared[0] = 0
        ious = shared / np.maximum(own.sum() + areas - shared, 1)
        top = int(ious.argmax())
        best.append(float(ious[top]))
        covers = max(covers, int((shared > ONE_PLACE * np.maximum(areas, 1)).sum()))
        if best[-1] == 0:
            continue
        growth.append(abs(math.log2(own.sum() / areas[top])))
        holder = int(shared.argmax())
        sizes = np.bincount(case.context.labels.ravel())
        here = np.bincount(case.context.labels[labels == holder], minlength=len(sizes))
        here[0] = 0
        siblings = max(siblings, int((here > ONE_PLACE * np.maximum(sizes, 1)).sum()))
        other += int(about.tracked and case.box is None and top != number)
    none = math.nan
    return {
        "overlap": max(best) if best else none,
        "overlap_least": min(best) if best else none,
        "growth": min(growth) if growth else none,
        "covers": float(covers) if best else none,
        "siblings": float(siblings) if best else none,
        "renamed": float(other) if best and about.tracked else none,
    }


def _answers(case: Case, box: Prediction, mask: Prediction | None) -> Signs:
    context = case.context
    by_box = paste(box.mask, box.origin, context.labels.shape, context.origin)
    others = (context.labels > 0) & ~context.mask
    found = {
        "box_answer": iou(by_box, context.mask),
        "box_confidence": box.predicted_iou,
        "box_growth": math.log2(max(int(box.mask.sum()), 1) / context.area),
        "spill": float((by_box & others).sum() / max(by_box.sum(), 1)),
    }
    if mask is None:
        return found | dict.fromkeys(("mask_answer", "agreement", "mask_confidence"), math.nan)
    by_mask = paste(mask.mask, mask.origin, context.labels.shape, context.origin)
    return found | {
        "mask_answer": iou(by_mask, context.mask),
        "agreement": iou(by_mask, by_box),
        "mask_confidence": mask.predicted_iou,
    }


def _detections(case: Case, found: Detections) -> Signs:
    if not len(found):
        return {"detection": 0.0, "detections": 0.0}
    context = case.context
    own = np.asarray(bbox(*trim(context.mask, context.origin)), float)
    places = np.floor(found.points[found.scores >= SURE] + 0.5).astype(int) - context.origin
    held = [p for p in places if 0 <= p[0] < context.mask.shape[1] and 0 <= p[1] < context.mask.shape[0]]
    return {
        "detection": float((found.scores * box_iou([own], found.boxes)[0]).max()),
        "detections": float(sum(bool(context.mask[y, x]) for x, y in held)),
    }


def said(name: str, value: float) -> str:
    """Return a sign in words.

    Parameters
    ----------
    name : one of :data:`SIGNS`
    value : as :func:`signs` gives it
    """
    shown: Any = 2**value if name in FACTORS else value
    return SIGNS[name].format(shown).replace("%", " %")
