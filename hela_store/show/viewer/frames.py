"""Frames of a store as a page shows them: grey pictures, cells and predictions."""

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
from hela_store.images.labels import compact
from hela_store.images.normalise import apply, limits
from hela_store.images.rle import bbox, decode_crop, encode
from hela_store.store.records import FrameRecord
from hela_store.store.store import Store

THUMBNAIL = 112
"""Longer side of a thumbnail, px."""
PREDICTIONS = """
    SELECT m.cell, c.label, q.rle, m.iou
    FROM cell_metrics m
    JOIN predictions q USING (run, cell, prompt, prompt_seed)
    JOIN cells_at c ON c.cell = m.cell AND c.labels_version = m.labels_version
    WHERE m.run = $run AND m.frame = $frame AND m.prompt = coalesce($prompt, m.prompt)
        AND m.prompt_seed = coalesce($seed, m.prompt_seed)
    QUALIFY row_number() OVER (PARTITION BY m.cell ORDER BY m.prompt, m.prompt_seed) = 1
    ORDER BY c.label
"""


def known_frame(store: Store, frame: object) -> FrameRecord:
    """Return the record of a frame that a page asks for; QueryError where there is no such frame."""
    found = store.frame_records().get(frame) if isinstance(frame, str) else None
    if found is None:
        raise QueryError("there is no such frame in this store; expected the id of an ingested frame, such as 01/t000")
    return found


VERSIONS = """
    SELECT frame, since, until FROM cell_versions WHERE cell = $cell ORDER BY since
"""


def drawn_cells(label: LabelArray, only: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return the cells of a label image as a page draws them, with ``counts``, a run-length code of the frame.

    Parameters
    ----------
    label : integer, (row, col)
    only : these labels alone, where they are given
    """
    shape, left, top = (label.shape[0], label.shape[1]), 0, 0
    if only is not None:
        wanted = np.isin(label, only)
        if not wanted.any():
            return []
        left, top, right, bottom = bbox(wanted)
        label = np.where(wanted, label, 0)[top:bottom, left:right]
    ids, index = compact(label)
    found = []
    for number, place in enumerate(ndimage.find_objects(index.astype(np.int32)), 1):
        if place is not None:
            origin = (left + place[1].start, top + place[0].start)
            rle = encode(index[place] == number, origin, shape)
            found.append({"cell": int(ids[number]), "label": int(ids[number]), "counts": rle.counts})
    return found


def cell_in_frame(store: Store, cell: str, run: str, prompt: str, seed: int | None) -> dict[str, Any]:
    """Return the frame of a cell with all of its labels, and the masks of a run there, as the page draws them.

    A run is shown with the version of the labels that it was scored against, so that none of its masks is left out;
    without a run it is the latest version.

    Parameters
    ----------
    store : Store
    cell : id
    run, prompt, seed : which predictions; those of the first prompt and seed of the run where these are empty or None

    Raises
    ------
    QueryError
        There is no such cell or run, or the cell is not in that version.
    """
    rows = catalog.query(store.path, VERSIONS, {"cell": cell}).to_pylist()
    if not rows:
        raise QueryError("there is no such cell in this store; expected an id of the table cells")
    latest = store.at_labels()
    shown = latest.at_labels(_version_of(store, run)) if run else latest
    version = shown.labels_version
    if not any(row["since"] <= version and (row["until"] is None or version < row["until"]) for row in rows):
        raise QueryError(f"cell {cell} is not in version {version} of the labels, {_why(run)}; it was added or erased")
    about = frame_content(shown, rows[0]["frame"], run, prompt, seed) | {"cell": cell, "run": run}
    if version != latest.labels_version:
        about |= {"version": f"Labels of version {version}, {_why(run)}; the latest is {latest.labels_version}."}
    return about


def frame_content(store: Store, frame: str, run: str, prompt: str, seed: int | None) -> dict[str, Any]:
    """Return the labels of a frame, and the masks of a run there, as pages draw them.

    Parameters
    ----------
    store : at the version of the labels that the run was scored against
    frame : id
    run, prompt, seed : which predictions; none where ``run`` is empty, those of the first prompt and seed of the run
        where the others are empty or None
    """
    record = known_frame(store, frame)
    cells = [about | {"name": f"{frame}#{about['label']}"} for about in drawn_cells(store.pixels.label(frame))]
    asked = {"frame": frame, "run": run, "prompt": prompt or None, "seed": seed}
    found = catalog.query(store.path, PREDICTIONS, asked).to_pylist() if run else []
    ious = {row["cell"]: row["iou"] for row in found}
    predictions = [
        {"cell": f"predicted {row['cell']}", "name": f"prediction for {row['cell']}", "counts": row["rle"]}
        | {"proposal": True, "iou": row["iou"], "label": row["label"]}
        for row in found
        if _fits(row["rle"], record.shape)
    ]
    about = {"frame": frame, "width": record.width, "height": record.height, "predictions": predictions}
    return about | {"cells": [cell | {"iou": ious.get(cell["name"])} for cell in cells]}


def _version_of(store: Store, run: str) -> int | None:
    """Return the version of the labels that a run was scored against; None where it names none."""
    rows = catalog.query(store.path, "SELECT labels_version FROM runs WHERE id = $run", {"run": run}).to_pylist()
    if not rows:
        raise QueryError("there is no such run in this store; expected an id of the table runs")
    version: int | None = rows[0]["labels_version"]
    return version


def _why(run: str) -> str:
    return f"which run {run} was scored against" if run else "the latest one"


def _fits(counts: str | None, shape: tuple[int, int]) -> bool:
    """Return whether a run-length code is one of the frame: a page decodes without looking."""
    try:
        return bool(counts) and decode_crop(str(counts), *shape)[0].size > 0
    except RunError:
        return False


def grey_png(store: Store, frame: str, most_side: int | None = None) -> bytes:
    """Return :func:`grey_picture` as a PNG, reduced to ``most_side`` px where that is given."""
    picture = grey_picture(store, frame)
    if most_side is not None:
        picture.thumbnail((most_side, most_side))
    sink = io.BytesIO()
    picture.save(sink, "PNG", compress_level=3)
    return sink.getvalue()


def grey_picture(store: Store, frame: str) -> Image.Image:
    """Return a frame as the encoder sees it, in grey.

    Raises
    ------
    StoreError
        The frame cannot be read.
    """
    how, image = store.recipe.normalise, store.pixels.image(frame)
    lo, hi = limits(image, how.method, how.low, how.high, store.recipe.dataset.offset)
    return Image.fromarray(apply(image, lo, hi, how.method).round().astype(np.uint8))
