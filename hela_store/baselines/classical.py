"""The classical baseline: logarithm, local threshold, watershed, with parameters searched for on training frames.

It sees the image and no prompt: its cells are its own, its SEG is a real one. Parameters come from a random search with
a stated budget on training frames; the best few are compared on validation frames, the winner runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage import measure, segmentation

from ..cell_scores import score_cell
from ..ctc_measures import match_frame, seg
from ..datasets.truth import apply_field_of_interest
from ..errors import RecipeError
from ..failures import label_areas
from ..masks import bbox, encode
from ..metrics import overlap
from ..progress import Progress, silent
from ..random import generator
from ..scoring import blocks_of, labelled_frames, median_training_radius
from ..splits import members
from ..store import Store
from ..types import BoolArray, LabelArray
from .rows import BaselineResult, BaselineRun, Row, found_row, write_run

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class ClassicalParameters:
    """How a frame is segmented; lengths are in median cell diameters of the training frames.

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


@dataclass(frozen=True, kw_only=True)
class ClassicalConfig:
    """What is searched and scored.

    Attributes
    ----------
    split : ``"train"``, ``"val"``, ``"test"`` or ``"all"``
    budget : sets of parameters tried on training frames
    finalists : the best of them, compared on validation frames
    search_frames : frames of either block that are looked at, evenly spread
    seed : of the search
    """

    split: str = "test"
    budget: int = 60
    finalists: int = 5
    search_frames: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test", "all"):
            raise RecipeError(f"split is {self.split!r}, expected train, val, test or all")
        if min(self.budget, self.finalists, self.search_frames) < 1:
            raise RecipeError("budget, finalists and search_frames are at least 1")


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
    """Return the parameters of the best validation SEG, and what the search did."""
    diameter, black = 2 * median_training_radius(store), store.recipe.dataset.offset
    train, val = (_spread(labelled_frames(store, block), config.search_frames) for block in ("train", "val"))
    rng = generator("classical", config.seed)
    low, high = (np.array([bounds[i] for bounds in _RANGES.values()]) for i in (0, 1))
    tried = [
        ClassicalParameters(**dict(zip(_RANGES, values.tolist(), strict=True)))
        for values in rng.uniform(low, high, (config.budget, len(_RANGES)))
    ]
    pixels = {frame: _pixels(store, frame) for frame in {*train, *val}}

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


def classical(store: Store, config: ClassicalConfig | None = None, progress: Progress = silent) -> BaselineResult:
    """Search, segment the frames of a split, and keep cells, scores and objects as a run.

    Every cell has a row of prompt ``none``: the object matched to it one to one (greatest total IoU), or IoU 0.
    Objects that match no cell are in ``detections.parquet`` alone, which SEG and DET are made from.

    Raises
    ------
    SplitError
        No labelled cell in train, val or the split.
    StoreError
        Nothing was ingested.
    """
    config = config or ClassicalConfig()
    wanted = members(blocks_of(store), config.split)
    parameters, about = search(store, config, progress)
    blocks, run = blocks_of(store), BaselineRun()
    rows = {row["frame"]: row for row in store.frames_table().to_pylist()}
    cells: dict[str, list[Row]] = {}
    found: list[Row] = []
    for cell in store.cells_table().to_pylist():
        cells.setdefault(cell["frame"], []).append(cell)
    for frame in progress(wanted, total=len(wanted), what=f"classical {config.split}"):
        image, truth = _pixels(store, frame)
        label = segment(image, about["offset"], about["diameter"], parameters)
        found += _add(run, rows[frame] | {"split": blocks[frame]}, label, truth, cells.get(frame, []))
    stored = asdict(config) | {"checkpoint": "classical", "parameters": asdict(parameters), "search": about}
    run.detections = found
    return write_run(store, stored, run, label=f"classical {config.split}")


def _pixels(store: Store, frame: str) -> tuple[npt.NDArray[Any], LabelArray]:
    table = store.frames_table()
    index = table["frame"].index(frame).as_py()
    group, row = table["group"][index].as_py(), table["row"][index].as_py()
    return store.arrays.image(group, row), store.arrays.label(group, row)


def _spread(frames: Sequence[str], count: int) -> list[str]:
    places = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    return [frames[place] for place in places]


def _add(run: BaselineRun, frame: Row, label: Labels, truth: LabelArray, cells: Sequence[Row]) -> list[Row]:
    """Add the cells of one frame to a run; return the rows of all objects found."""
    shape = (frame["height"], frame["width"])
    objects = [(number, place) for number, place in enumerate(ndimage.find_objects(label), 1) if place is not None]
    masks: list[tuple[BoolArray, tuple[int, int]]] = [
        (label[place] == number, (place[1].start, place[0].start)) for number, place in objects
    ]
    matched = _match(label, truth, [number for number, _ in objects], [cell["label"] for cell in cells])
    areas = label_areas(truth)
    of_object = {number: cells[i]["cell"] for i, number in matched.items()}
    ious: dict[int, float] = {}
    for i, cell in enumerate(cells):
        number = matched.get(i)
        mask, origin = (np.zeros((0, 0), bool), (0, 0)) if number is None else masks[number - 1]
        box = (cell["x0"], cell["y0"], cell["x1"], cell["y1"])
        own = truth[box[1] : box[3], box[0] : box[2]] == cell["label"]
        shared = overlap(mask, own, origin, (box[0], box[1]))
        if number is not None:
            ious[number] = shared.iou
        detail = score_cell(mask, origin, truth, (cell["label"], box), areas)
        run.add_cell(cell, frame, (shared.iou, shared.dice), encode(mask, origin, shape), asdict(detail))
    return [
        found_row(frame, number, bbox(mask, origin), encode(mask, origin, shape))
        | {"cell": of_object.get(number), "iou": ious.get(number)}
        for (number, _), (mask, origin) in zip(objects, masks, strict=True)
    ]


def _match(label: Labels, truth: LabelArray, objects: Sequence[int], cells: Sequence[int]) -> dict[int, int]:
    """Return the object of each matched cell, by index of the cell: the assignment of greatest total IoU."""
    if not objects or not cells:
        return {}
    both = (label > 0) & (truth > 0)
    stride = int(label.max()) + 1
    pairs, shared = np.unique(truth[both].astype(np.int64) * stride + label[both], return_counts=True)
    of_cell, of_object = {c: i for i, c in enumerate(cells)}, {o: i for i, o in enumerate(objects)}
    areas, own = label_areas(truth), label_areas(label)
    iou = np.zeros((len(cells), len(objects)))
    for pair, count in zip(pairs.tolist(), shared.tolist(), strict=True):
        cell, number = pair // stride, pair % stride
        if cell in of_cell:
            iou[of_cell[cell], of_object[number]] = count / (areas[cell] + own[number] - count)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return {int(r): objects[c] for r, c in zip(rows, columns, strict=True) if iou[r, c] > 0}
