"""Views as images on disk, with labels in YOLO's format: all that the ``yolo11`` process gets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.base.names import inside
from hela_store.base.progress import Progress
from hela_store.evaluation.frames import FrameCells
from hela_store.images import normalise
from hela_store.images.geometry import Rect
from hela_store.images.labels import compact
from hela_store.store.store import Store
from hela_store.training.data import TrainingView

KEEP = 0.5
"""Share of a cell that a view has to show for a label; the rest of others is blanked."""
BLANK = 114
"""Grey of what says nothing (rule "valid pixels"): YOLO's own for what is no image."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Views of a frame as image files: their names without ending, rectangles, and the frame's ``(rows, cols)`` px."""

    names: list[str]
    rects: list[Rect]
    shape: tuple[int, int]


def write_tiles(store: Store, frame: FrameCells, folder: Path) -> Tiles:
    """Write the views of a frame as 8-bit PNGs, as the encoder sees them."""
    folder.mkdir(parents=True, exist_ok=True)
    image = _seen(store, frame.frame)
    for tile in frame.tiles:
        _save(_part(image, tile.rect), inside(folder, tile.view, suffix=".png", what="the view"))
    names, rects = [tile.view for tile in frame.tiles], [tile.rect for tile in frame.tiles]
    return Tiles(names=names, rects=rects, shape=frame.shape)


def write_dataset(store: Store, views: Mapping[str, Sequence[TrainingView]], folder: Path, progress: Progress) -> Path:
    """Write images and labels of the views as acquired of each block; return the file that describes them.

    Ground that says nothing is grey in the images: YOLO would learn that what is unlabelled there is no cell.
    """
    for block, members in views.items():
        for kind in ("images", "labels"):
            (folder / kind / block).mkdir(parents=True, exist_ok=True)
        for view in progress(members, total=len(members), what=f"images of {block}"):
            image = _part(_seen(store, view.frame), view.rect)
            label = store.pixels.label(view.frame)
            valid = _part(store.pixels.valid(view.frame), view.rect)
            boxes, shown = boxes_in(label, view.rect, valid)
            path = inside(folder / "images" / block, view.view, suffix=".png", what="the view")
            _save(np.where(shown, image, BLANK).astype(np.uint8), path)
            lines = "".join(f"0 {' '.join(f'{v:.6f}' for v in box)}\n" for box in boxes)
            inside(folder / "labels" / block, view.view, suffix=".txt", what="the view").write_text(lines)
    yaml = folder / "data.yaml"
    # every JSON text is YAML, too
    paths = {block: f"images/{block}" for block in views}
    yaml.write_text(json.dumps({"path": str(folder), **paths, "names": {"0": "cell"}}).replace('"0"', "0"))
    return yaml


def boxes_in(label: LabelArray, rect: Rect, valid: BoolArray) -> tuple[list[list[float]], BoolArray]:
    """Return the boxes of the cells a view shows, and which of its pixels say something.

    Parameters
    ----------
    label : integer, (row, col), of the frame
    rect : ``(x0, y0, width, height)`` px, frame
    valid : bool, (row, col), of the view

    Returns
    -------
    boxes : ``cx, cy, width, height`` in units of the view's width and height, each
    shown : bool, (row, col), of the view
        ``valid`` without cells of which the view shows too little.
    """
    _, index = compact(label)
    part = _part(index, rect)
    whole, here = np.bincount(index.ravel()), np.bincount(part.ravel(), minlength=int(index.max()) + 1)
    boxes, shown = [], valid.copy()
    for value, place in enumerate(ndimage.find_objects(part), 1):
        if place is None:
            continue
        if here[value] < KEEP * whole[value]:
            shown[place] &= part[place] != value
            continue
        rows, columns = place
        middle = [(columns.start + columns.stop) / 2 / rect[2], (rows.start + rows.stop) / 2 / rect[3]]
        boxes.append([*middle, (columns.stop - columns.start) / rect[2], (rows.stop - rows.start) / rect[3]])
    return boxes, shown


def _seen(store: Store, frame: str) -> npt.NDArray[np.uint8]:
    image, recipe = store.pixels.image(frame), store.recipe.normalise
    lo, hi = normalise.limits(image, recipe.method, recipe.low, recipe.high, store.recipe.dataset.offset)
    return normalise.apply(image, lo, hi, recipe.method).round().astype(np.uint8)


def _part(image: npt.NDArray[Any], rect: Rect) -> npt.NDArray[Any]:
    x0, y0, width, height = rect
    return image[y0 : y0 + height, x0 : x0 + width]


def _save(image: npt.NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)
