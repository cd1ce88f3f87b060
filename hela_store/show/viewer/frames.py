"""Frames of a store as a page shows them: a list with what is embedded, and grey pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from hela_store.errors import QueryError
from hela_store.evaluation.frames import frame_tiles
from hela_store.images.normalise import apply, limits
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

THUMBNAIL = 112
"""Longer side of a thumbnail, px."""


def frame_list(store: Store) -> list[dict[str, Any]]:
    """Return all ingested frames, each sequence in the order of time, with whether all of their tiles are embedded.

    Raises
    ------
    StoreError
        Nothing was ingested yet.
    """
    records = store.frame_records()
    embedded = frame_tiles(store, list(records))
    names = ("frame", "sequence", "time", "width", "height")
    return [
        {name: getattr(record, name) for name in names} | {"embedded": frame in embedded}
        for frame, record in records.items()
    ]


def known_frame(store: Store, frame: object) -> FrameRecord:
    """Return the record of a frame that a page asks for; QueryError where there is no such frame."""
    found = store.frame_records().get(frame) if isinstance(frame, str) else None
    if found is None:
        raise QueryError("there is no such frame in this store; expected the id of an ingested frame, such as 01/t000")
    return found


def grey_png(store: Store, frame: str, most_side: int | None = None) -> bytes:
    """Return a frame as the encoder sees it, a grey PNG, reduced to ``most_side`` px where that is given.

    Raises
    ------
    StoreError
        The frame cannot be read.
    """
    how, image = store.recipe.normalise, store.pixels.image(frame)
    lo, hi = limits(image, how.method, how.low, how.high, store.recipe.dataset.offset)
    picture = Image.fromarray(apply(image, lo, hi, how.method).round().astype(np.uint8))
    if most_side is not None:
        picture.thumbnail((most_side, most_side))
    sink = io.BytesIO()
    picture.save(sink, "PNG", compress_level=3)
    return sink.getvalue()
