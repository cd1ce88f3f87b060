"""A suspicious label as a picture: the frame before, the frame as acquired, with label and answer, the frame after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hela_store.audit.neighbours import neighbours_in_time
from hela_store.base.aliases import LabelArray
from hela_store.errors import RunError
from hela_store.images.normalise import apply, limits
from hela_store.images.rle import decode_crop, paste
from hela_store.store.store import Store

from .cards import OPEN_FRAMES, crop_around, label_edges

SIDE = 160
"""Height of a strip, px of the picture."""
GAP = 3
LABEL, OTHER, ANSWER = (70, 220, 110), (60, 110, 200), (255, 150, 30)
"""Colours of the judged label, of other labels, and of the decoder's answer."""
LEGEND = (
    "green: the label; orange: the decoder's answer; blue: other labels; left and right: the frames before and after"
)


def suspect_pictures(store: Store, rows: Sequence[Mapping[str, Any]]) -> Iterator[Image.Image]:
    """Draw rows of the table ``suspects``, in their order; fastest where those of one frame follow each other.

    Parameters
    ----------
    store : Store
    rows : with ``frame``, ``label`` (None for a place), ``x0`` to ``y1``, ``rle`` and ``labels_version``
    """
    near = {}
    for version in sorted({row["labels_version"] for row in rows}):
        frames = sorted({row["frame"] for row in rows if row["labels_version"] == version})
        near[version] = dict(neighbours_in_time(store.at_labels(version), frames))
    records = store.frame_records()

    @lru_cache(3 * OPEN_FRAMES)
    def frame(name: str, version: int) -> tuple[npt.NDArray[Any], LabelArray]:
        return store.pixels.image(name), store.at_labels(version).pixels.label(name)

    for row in rows:
        version = row["labels_version"]
        image, label = frame(row["frame"], version)
        box = tuple(int(row[name]) for name in ("x0", "y0", "x1", "y1"))
        x0, y0, width, height = crop_around(box, image.shape)
        window = (slice(y0, y0 + height), slice(x0, x0 + width))
        own = (
            np.zeros((height, width), np.int32)
            if row["label"] is None
            else np.where(label[window] == row["label"], label[window], 0)
        )
        outlines: list[tuple[npt.NDArray[Any], tuple[int, int, int]]] = [
            (label[window], OTHER),
            (own, LABEL),
            (_answer(row, label.shape, (x0, y0), (height, width)), ANSWER),
        ]
        panels = [_panel(image[window], []), _panel(image[window], outlines)]
        for other in near[version][row["frame"]]:
            picture, labels = frame(other, version)
            later = records[other].time > records[row["frame"]].time
            panels.insert(len(panels) if later else 0, _panel(picture[window], [(labels[window], OTHER)]))
        yield _side_by_side(panels)


def _answer(
    row: Mapping[str, Any], shape: tuple[int, ...], corner: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.int32]:
    if not row["rle"]:
        return np.zeros(size, np.int32)
    try:
        mask, origin = decode_crop(row["rle"], shape[0], shape[1])
    except RunError:
        return np.zeros(size, np.int32)
    return paste(mask, origin, size, corner).astype(np.int32)


def _panel(crop: npt.NDArray[Any], outlines: Sequence[tuple[npt.NDArray[Any], tuple[int, int, int]]]) -> Image.Image:
    """Return a crop, enlarged by a whole factor, with the outlines of labels, each a pixel of the picture wide."""
    times = max(1, SIDE // max(crop.shape))
    grey = apply(np.nan_to_num(crop), *limits(np.nan_to_num(crop), "percentile")).astype(np.uint8)
    large = np.repeat(np.repeat(grey, times, 0), times, 1)
    colour = np.repeat(large[..., None], 3, 2)
    for labels, paint in outlines:
        colour[label_edges(np.repeat(np.repeat(labels, times, 0), times, 1))] = paint
    return Image.fromarray(colour)


def _side_by_side(panels: Sequence[Image.Image]) -> Image.Image:
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    strip = Image.new("RGB", (width, max(panel.height for panel in panels)))
    at = 0
    for panel in panels:
        strip.paste(panel, (at, 0))
        at += panel.width + GAP
    return strip
