"""Names of plans: digests of all that decides which views there are."""

from __future__ import annotations

import hashlib
import itertools

import pyarrow as pa
import pyarrow.compute as pc

from hela_store.base.files import framed
from hela_store.recipe.recipe import Recipe


def plan_names(recipe: Recipe, frames: pa.Table) -> dict[int, str]:
    """Return the name of the plan a recipe asks for over the first n frames: all that decides which views there are.

    By n, ascending; for every n at which a segment of frames ends, as plans are made between segments.
    """
    parts: list[str | float | int] = [
        recipe.normalise.method,
        float(recipe.normalise.low),
        float(recipe.normalise.high),
        float(recipe.dataset.offset),
        recipe.views.tile,
        recipe.views.overlap if recipe.views.tile else 0,
    ]
    augment = recipe.augment
    if augment.variants:
        parts += ["augment", augment.set, augment.variants]
        parts += [repr(recipe.split)] if augment.frames == "train" else []
    total, count = hashlib.sha256(framed("plan", *parts)), 0
    names = {0: total.hexdigest()[:16]}
    for batch in frames.select(["frame", "sha256"]).to_batches():
        total.update(_framed(batch["frame"], batch["sha256"]))
        count += len(batch)
        names[count] = total.hexdigest()[:16]
    return names


PLAIN = "^[A-Za-z0-9_@=+,./ -]*$"
"""Text that Python's ``repr`` writes as it is, in single quotes."""


def _framed(frames: pa.Array, sums: pa.Array) -> bytes:
    """Return :func:`hela_store.base.files.framed` of the values of both columns in turn."""
    plain = [pc.all(pc.match_substring_regex(column, PLAIN)).as_py() for column in (frames, sums)]
    if not all(plain):
        return framed(*itertools.chain.from_iterable(zip(frames.to_pylist(), sums.to_pylist(), strict=True)))
    parts: list[pa.Array | str] = []
    for column in (frames, sums):
        length = pc.cast(pc.add(pc.binary_length(column), 2), pa.string())
        parts += ["str:", length, ":'", column, "'"]
    text = pc.binary_join_element_wise(*parts, "")
    return "".join(text.to_pylist()).encode()
