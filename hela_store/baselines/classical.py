"""The classical baseline: logarithm, local threshold, watershed, with parameters searched for on training frames.

It sees the image and no prompt: its cells are its own, its SEG is a real one. Parameters come from a random search with
a stated budget on training frames; the best few are compared on validation frames, the winner runs once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import measure, segmentation

from hela_store.base.progress import Progress, silent
from hela_store.base.rng import generator
from hela_store.evaluation.frames import labelled_frames, median_training_radius, need_labels
from hela_store.images.labels import apply_field_of_interest
from hela_store.metrics.ctc import match_frame, seg
from hela_store.recipe.splits import members
from hela_store.store.labelled import Labelled
from hela_store.store.store import Store

from .config import ClassicalConfig
from .found import Labels, segment_split, spread
from .found import pixels as frame_pixels
from .rows import BaselineResult, once, write_run


@dataclass(frozen=True, kw_only=True)
class ClassicalParameters:
    """Describe how a frame is segmented; lengths are in median cell diameters of the training frames.

    Attributes
    ----------
    smooth : standard deviation of the Gaussian over the log image
    block : standard deviation of the local mean that the threshold follows
    above : how far above the local mean a cell is, as a share of the frame's contrast
    floor : how far above the frame's background a cell is, in the same way
    spread : standard deviation of the Gaussian over the distance map before the watershed
    apart : least distance of two seeds
    least : least area, in areas of the median cell
    """

    smooth: float
    block: float
    above: float
    floor: float
    spread: float
    apart: float
    least: float


_RANGES = {
    "smooth": (0.02, 0.15),
    "block": (0.6, 4.0),
    "above": (-0.05, 0.15),
    "floor": (0.05, 0.4),
    "spread": (0.02, 0.2),
    "apart": (0.2, 0.9),
    "least": (0.05, 0.4),
}


def segment(image: npt.NDArray[Any], black: float, diameter: float, parameters: ClassicalParameters) -> Labels:
    """Segment one frame.

    Parameters
    ----------
    image : any dtype, (row, col), counts
    black : float
        Black level, counts.
    diameter : float
        Of the median cell, px.

    Returns
    -------
    int32, (row, col)
        0 background, 1 to n.
    """
    p = parameters
    light = np.log1p(np.maximum(image.astype(np.float32) - np.float32(black), 0))
    light = ndimage.gaussian_filter(light, p.smooth * diameter)
    background, bright = np.percentile(light, (10, 99))
    contrast = max(float(bright - background), 1e-6)
    local = ndimage.gaussian_filter(light, p.block * diameter)
    mask = (light > local + p.above * contrast) & (light > background + p.floor * contrast)
    least = max(int(p.least * np.pi / 4 * diameter**2), 1)
    mask = ndimage.binary_fill_holes(mask)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), p.spread * diameter)
    reach = max(round(p.apart * diameter / 2), 1)
    peaks = (depth == ndimage.maximum_filter(depth, 2 * reach + 1)) & mask
    label = segmentation.watershed(-depth, measure.label(peaks), mask=mask)
    areas = np.bincount(label.ravel())
    label = np.where(areas[label] >= least, label, 0)
    return np.asarray(segmentation.relabel_sequential(label)[0], np.int32)


def search(
    store: Store, config: ClassicalConfig, progress: Progress = silent
) -> tuple[ClassicalParameters, dict[str, Any]]:
    """Return the parameters of the best validation SEG, and what the search did.

    Where only some cells are known, these are searched on and choose.
    """
    diameter, black = 2 * median_training_radius(store), store.recipe.dataset.offset
    blocks = ("train", "train") if isinstance(store, Labelled) else ("train", "val")
    train, val = (spread(labelled_frames(store, block), config.search_frames) for block in blocks)
    rng = generator("classical", config.seed)
    low, high = (np.array([bounds[i] for bounds in _RANGES.values()]) for i in (0, 1))
    tried = [
        ClassicalParameters(**dict(zip(_RANGES, values.tolist(), strict=True)))
        for values in rng.uniform(low, high, (config.budget, len(_RANGES)))
    ]
    pixels = {frame: frame_pixels(store, frame) for frame in {*train, *val}}

    def scored(parameters: ClassicalParameters, frames: Sequence[str]) -> float:
        band, matches = store.recipe.dataset.field_of_interest, []
        for frame in frames:
            image, truth = pixels[frame]
            label = segment(image, black, diameter, parameters)
            matches.append(match_frame(truth, apply_field_of_interest(label, band)))
        return seg(matches)

    shown = progress(tried, total=len(tried), what="search on train")
    training = [scored(parameters, train) for parameters in shown]
    best = np.argsort(training, kind="stable")[::-1][: config.finalists]
    validation = {int(i): scored(tried[int(i)], val) for i in best}
    chosen = max(validation, key=lambda i: validation[i])
    about = {"train_frames": train, "val_frames": val, "train_seg": training[chosen], "val_seg": validation[chosen]}
    return tried[chosen], about | {"diameter": diameter, "offset": black}


def classical(
    store: Store, config: ClassicalConfig | None = None, *, fresh: bool = False, progress: Progress = silent
) -> BaselineResult:
    """Search, segment the frames of a split, and keep cells, scores and objects as a run.

    Rows are those of :func:`hela_store.baselines.found.segment_split`. A finished run of this very search is returned
    as it is, unless ``fresh``.

    Raises
    ------
    SplitError
        No labelled cell in train, val or the split.
    StoreError
        Nothing was ingested.
    """
    config = config or ClassicalConfig()
    need_labels(store)
    blocks = store.blocks()
    for split in ("train", "val", config.split):
        members(blocks, split)  # an empty block is told before the search

    def make(asked: Mapping[str, Any]) -> BaselineResult:
        start = time.perf_counter()
        parameters, about = search(store, config, progress)
        budget = {"trials": config.budget, "seconds": time.perf_counter() - start}

        def found(image: npt.NDArray[Any]) -> Labels:
            return segment(image, about["offset"], about["diameter"], parameters)

        run = segment_split(store, config.split, found, "classical", progress)
        stored = asdict(config) | {"checkpoint": "classical", "parameters": asdict(parameters), "search": about}
        stored |= {"spent": budget, "asked": asked}
        return write_run(store, stored, run, label=f"classical {config.split}")

    return once(store, {"method": "classical"} | asdict(config), make, fresh=fresh, progress=progress)
