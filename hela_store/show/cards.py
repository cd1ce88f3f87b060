"""A cell as a picture: its crop of the frame, and the outlines of truth, prompt and predictions over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from hela_store.base.aliases import BoolArray, LabelArray
from hela_store.errors import PromptError, RunError
from hela_store.images.geometry import Rect
from hela_store.images.normalise import apply, limits
from hela_store.images.rle import decode_crop
from hela_store.prompts.context import cell_context
from hela_store.prompts.draw import make_prompt
from hela_store.store.store import Store

Row = Mapping[str, Any]
WIDEN = 2.0
"""Side of a crop, in larger sides of the cell's box."""
LEAST_SIDE = 40
"""Smallest side of a crop, px of the frame."""
MOST_SIDE = 160
"""Side to which larger crops are reduced, px of the picture."""
OPEN_FRAMES = 4
"""Frames kept in memory while cards are drawn."""
TOLERANCE = 0.25
"""How far an outline may be simplified, px of the frame."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Data of a page's drawing of one cell; paths are SVG path data in px of the crop, upper left corner (0, 0).

    Attributes
    ----------
    cell : str
    image : str
        ``data:`` address of the crop, contrast stretched on its own.
    width, height : int
        Of the crop, px of the frame.
    truth, prompt, prediction, before : str
        Outlines; empty where there is none. ``before`` is another run's prediction for the same prompt.
    points : tuple of (x, y, label)
        Prompt points; label 1 cell, 0 background.
    """

    cell: str
    image: str
    width: int
    height: int
    truth: str
    prompt: str = ""
    prediction: str = ""
    before: str = ""
    points: tuple[tuple[float, float, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def draw_cards(store: Store, rows: Sequence[Row]) -> Iterator[Card]:
    """Draw cells, in the order of ``rows``; fastest where cells of one frame follow each other.

    Parameters
    ----------
    rows : mappings
        ``cell``, ``label``, ``x0`` ... ``y1`` (px, frame) of the cell; and ``frame``, the id of its frame. Where they
        are there: ``labels_version``, by default that of the store; ``rle`` of a prediction; ``before``, another's
        ``rle``; ``kind``, ``origin``, ``prompt_seed``, ``box`` (4 numbers), ``points`` and ``point_labels`` of
        the prompt.
    """

    @lru_cache(OPEN_FRAMES)
    def frame(name: str, version: int | None) -> tuple[npt.NDArray[Any], LabelArray]:
        read = store if version is None else store.at_labels(version)
        return store.pixels.image(name), read.pixels.label(name)

    for row in rows:
        image, label = frame(row["frame"], row.get("labels_version"))
        yield _draw(row, image, label)


def _draw(row: Row, image: npt.NDArray[Any], label: LabelArray) -> Card:
    box = (int(row["x0"]), int(row["y0"]), int(row["x1"]), int(row["y1"]))
    x0, y0, width, height = crop_around(box, image.shape)
    rows, columns = slice(y0, y0 + height), slice(x0, x0 + width)
    prompt, points = _prompt(row, box, label, (x0, y0))
    return Card(
        cell=row["cell"],
        image=picture(image[rows, columns]),
        width=width,
        height=height,
        truth=outline(label[rows, columns] == row["label"]),
        prompt=prompt,
        prediction=_rle_outline(row.get("rle"), label.shape, (x0, y0)),
        before=_rle_outline(row.get("before"), label.shape, (x0, y0)),
        points=points,
    )


def crop_around(box: Sequence[int], shape_rc: tuple[int, ...]) -> Rect:
    """Return a square around a box, ``(x0, y0, width, height)`` px, frame, moved and cut to lie in the frame."""
    x0, y0, x1, y1 = box
    side = max(LEAST_SIDE, int(WIDEN * max(x1 - x0, y1 - y0)))
    place = []
    for low, high, length in ((x0, x1, shape_rc[1]), (y0, y1, shape_rc[0])):
        size = min(side, length)
        place.append((min(max((low + high - size) // 2, 0), length - size), size))
    return place[0][0], place[1][0], place[0][1], place[1][1]


def picture(crop: npt.NDArray[Any]) -> str:
    """Return a crop, (row, col), as the ``data:`` address of a grey WebP picture; contrast stretched on its own."""
    crop = np.nan_to_num(crop)
    grey = apply(crop, *limits(crop, "percentile")).astype(np.uint8)
    return data_address(Image.fromarray(grey), MOST_SIDE)


def data_address(image: Image.Image, most_side: int) -> str:
    """Return a picture, reduced to ``most_side`` px, as a ``data:`` address."""
    if max(image.size) > most_side:
        image.thumbnail((most_side, most_side))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def outline(mask: BoolArray, origin: tuple[float, float] = (0, 0)) -> str:
    """Return a mask's outline as SVG path data.

    Parameters
    ----------
    mask : bool, (row, col)
    origin : (x, y)
        Of the mask's first pixel in the picture; a pixel (0, 0) covers 0 to 1.
    """
    if not mask.any():
        return ""
    parts = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        # contours are (row, col) at pixel centres, and one px off for the padding
        place = approximate_polygon(contour, TOLERANCE)[:-1, ::-1] - 0.5 + np.asarray(origin)
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in place) + "Z")
    return "".join(parts)


def _rle_outline(counts: str | None, shape: tuple[int, ...], corner: tuple[int, int]) -> str:
    if not counts:
        return ""
    try:
        mask, origin = decode_crop(counts, shape[0], shape[1])
    except RunError:
        return ""
    return outline(mask, (origin[0] - corner[0], origin[1] - corner[1]))


def _prompt(
    row: Row, box: tuple[int, int, int, int], label: LabelArray, corner: tuple[int, int]
) -> tuple[str, tuple[tuple[float, float, int], ...]]:
    """Return the outline of a box or mask prompt, and the points of a point prompt."""
    given, points = row.get("box"), row.get("points") or ()
    path = ""
    if given is not None and given[0] is not None:
        x0, x1 = (given[i] - corner[0] for i in (0, 2))
        y0, y1 = (given[i] - corner[1] for i in (1, 3))
        path = f"M{x0:.1f} {y0:.1f}H{x1:.1f}V{y1:.1f}H{x0:.1f}Z"
    if "mask" in (row.get("kind") or "") and row.get("origin") == "truth":
        path += _mask_prompt(row, box, label, corner)
    places = zip(points[::2], points[1::2], row.get("point_labels") or (), strict=False)
    # a point lies at a pixel's centre; the picture counts from pixel corners
    return path, tuple((round(x - corner[0] + 0.5, 2), round(y - corner[1] + 0.5, 2), int(n)) for x, y, n in places)


def _mask_prompt(row: Row, box: tuple[int, int, int, int], label: LabelArray, corner: tuple[int, int]) -> str:
    """Draw a mask prompt again: the catalog keeps its seed, not its pixels."""
    try:
        drawn = make_prompt(row["kind"], cell_context(label, row["label"], row["cell"], box), row["prompt_seed"])
    except PromptError:
        return ""
    if drawn.mask is None:
        return ""
    return outline(drawn.mask, (drawn.mask_origin[0] - corner[0], drawn.mask_origin[1] - corner[1]))


def label_edges(label: LabelArray) -> BoolArray:
    """Return where a label image changes from one cell to another or to background, bool, (row, col)."""
    edge = np.zeros(label.shape, bool)
    edge[:-1] |= label[:-1] != label[1:]
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    return edge
