"""Frames of a store as a page shows them: a list with what is embedded, and grey pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from hela_store.base.aliases import LabelArray
from hela_store.catalog import index as catalog
from hela_store.errors import QueryError, RunError
from hela_store.evaluation.frames import frame_tiles
from hela_store.images.labels import compact
from hela_store.images.normalise import apply, limits
from hela_store.images.rle import decode_crop, encode
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

THUMBNAIL = 112
"""Longer side of a thumbnail, px."""
PREDICTIONS = """
    SELECT m.cell, c.label, q.rle, m.iou
    FROM cell_metrics m
    JOIN predictions q USING (run, cell, prompt, prompt_seed)
    JOIN cells c ON c.cell = m.cell
    WHERE m.run = $run AND m.frame = $frame AND m.prompt = coalesce($prompt, m.prompt)
        AND m.prompt_seed = coalesce($seed, m.prompt_seed)
    QUALIFY row_number() OVER (PARTITION BY m.cell ORDER BY m.prompt, m.prompt_seed) = 1
    ORDER BY c.label
"""


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


def drawn_cells(label: LabelArray, only: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return the cells of a label image as a page draws them, with ``counts``, a run-length code of the frame.

    Parameters
    ----------
    label : integer, (row, col)
    only : these labels alone, where they are given
    """
    if only is not None:
        label = np.where(np.isin(label, only), label, 0)
    ids, index = compact(label)
    found = []
    for number, place in enumerate(ndimage.find_objects(index.astype(np.int32)), 1):
        if place is not None:
            origin = (place[1].start, place[0].start)
            rle = encode(index[place] == number, origin, (label.shape[0], label.shape[1]))
            found.append({"cell": int(ids[number]), "label": int(ids[number]), "counts": rle.counts})
    return found


def cell_in_frame(store: Store, cell: str, run: str, prompt: str, seed: int | None) -> dict[str, Any]:
    """Return the frame of a cell with all of its labels, and the masks of a run there, as the page draws them.

    Parameters
    ----------
    store : Store
    cell : id
    run, prompt, seed : which predictions; those of the first prompt and seed of the run where these are empty or None

    Raises
    ------
    QueryError
        There is no such cell.
    """
    rows = catalog.query(store.path, "SELECT frame FROM cells WHERE cell = $cell", {"cell": cell}).to_pylist()
    if not rows:
        raise QueryError("there is no such cell in this store; expected an id of the table cells")
    record = known_frame(store, rows[0]["frame"])
    label = store.at_labels().pixels.label(record.frame)
    cells = [about | {"name": f"{record.frame}#{about['label']}"} for about in drawn_cells(label)]
    asked = {"frame": record.frame, "run": run, "prompt": prompt or None, "seed": seed}
    found = catalog.query(store.path, PREDICTIONS, asked).to_pylist() if run else []
    ious = {row["cell"]: row["iou"] for row in found}
    predictions = [
        {"cell": f"predicted {row['cell']}", "name": f"prediction for {row['cell']}", "counts": row["rle"]}
        | {"proposal": True, "iou": row["iou"], "label": row["label"]}
        for row in found
        if _fits(row["rle"], record.shape)
    ]
    about = {"frame": record.frame, "width": record.width, "height": record.height, "cell": cell, "run": run}
    return about | {"cells": [c | {"iou": ious.get(c["name"])} for c in cells], "predictions": predictions}


def _fits(counts: str | None, shape: tuple[int, int]) -> bool:
    """Return whether a run-length code is one of the frame: a page decodes without looking."""
    try:
        return bool(counts) and decode_crop(str(counts), *shape)[0].size > 0
    except RunError:
        return False


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
