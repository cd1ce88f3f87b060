"""Augmented views beside the originals: image, overlay and mask of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.images.normalise import apply
from hela_store.show.cards import data_address, label_edges
from hela_store.store.store import Store

from .choice import Choice, Row
from .page import Section

MOST = 4
SIDE = 300
EDGE = (46, 204, 113)
TURN = 0.618033988749895
"""Golden ratio's fraction: neighbouring labels get hues far apart."""
VARIANTS = """
    SELECT frame, tile, variant, lo, hi FROM views WHERE variant > 0
    QUALIFY row_number() OVER (PARTITION BY variant ORDER BY hash(frame), tile) = 1 ORDER BY variant LIMIT $most
"""


def augmented(choice: Choice) -> Section | None:
    """Return the section; None where the store has no augmented views."""
    rows = choice.rows(VARIANTS, most=MOST)
    pictures = [each for row in rows for each in _panels(choice.store, row)]
    if not pictures:
        return None
    text = "Image, overlay and mask: as acquired, then the augmented variant of the same tile."
    return Section(id="augmented", title="Augmented views", text=text, pictures=pictures)


def _panels(store: Store, row: Row) -> list[tuple[str, str]]:
    found = []
    for variant in (0, row["variant"]):
        view = store.view(row["frame"], row["tile"], variant)
        name = f"{row['frame']}, tile {row['tile']}, " + (f"variant {variant}" if variant else "as acquired")
        found += panels(name, view.image, view.label, (row["lo"], row["hi"]))
    return found


def panels(name: str, image: npt.NDArray[Any], label: LabelArray, limits: tuple[float, float]) -> list[tuple[str, str]]:
    """Return (caption, ``data:`` address) of image, overlay and mask of a view.

    Parameters
    ----------
    image : (row, col)
    label : integer, (row, col)
    limits : counts that become black and white
    """
    grey = np.repeat(apply(image, *limits).astype(np.uint8)[..., None], 3, 2)
    overlay = grey.copy()
    # as many px wide as the picture is reduced by
    width = max(1, round(max(label.shape) / SIDE))
    overlay[ndimage.binary_dilation(label_edges(label), iterations=width) if width > 1 else label_edges(label)] = EDGE
    hue = (label.astype(np.float64) * TURN % 1 * 255).astype(np.uint8)
    filled = np.where(label > 0, 200, 0).astype(np.uint8)
    mask = Image.fromarray(np.dstack([hue, filled, filled]), "HSV").convert("RGB")
    parts = (("image", Image.fromarray(grey)), ("overlay", Image.fromarray(overlay)), ("mask", mask))
    return [(f"{name}: {what}", data_address(picture, SIDE)) for what, picture in parts]
