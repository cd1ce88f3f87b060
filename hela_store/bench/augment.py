"""Say what an augmented view costs beside its encoding, on the CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hela_store.augment.ranges import AugmentRecipe
from hela_store.augment.render import render
from hela_store.augment.variant import draw_variant
from hela_store.augment.warp import Warp
from hela_store.base.progress import Progress, silent
from hela_store.datasets.ctc import CtcReader
from hela_store.datasets.frame import Frame
from hela_store.datasets.synthetic import BLACK_LEVEL, write_sequence
from hela_store.embedding.record import threads
from hela_store.errors import RecipeError
from hela_store.images import normalise
from hela_store.recipe.recipe import Architecture, DatasetRecipe

FRAME = (700, 1100)
CELLS = 64
"""As in a frame of Fluo-N2DL-HeLa."""


@dataclass(frozen=True, kw_only=True)
class AugmentBench:
    """Seconds a view, medians over the views; the encoder's passes lie between them.

    Attributes
    ----------
    architecture : str
    tile, views, threads : int
    draw : parameters and no-fold check, once, when planning
    image : grid, sampling and light
    labels : warped labels and valid map
    encode : the encoder
    share : of ``image`` and ``labels`` in all that `embed` computes for a view
    """

    architecture: str
    tile: int
    views: int
    threads: int
    draw: float
    image: float
    labels: float
    encode: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def bench_augment(
    architecture: Architecture = "nano",
    *,
    tile: int = 512,
    views: int = 8,
    cores: int = 1,
    progress: Progress = silent,
) -> AugmentBench:
    """Time the making of augmented views of a drawn frame against their encoding.

    Parameters
    ----------
    architecture : str
        Which encoder, with random weights, which cost the same.
    tile : int
        Edge length of a view, px, at most 700.
    views : int
        How many are timed, after one that is not.
    cores : int
        Threads of torch.

    Raises
    ------
    RecipeError
        A number is out of range.
    """
    for name, value, low, high in (("tile", tile, 64, FRAME[0]), ("views", views, 1, 10_000), ("cores", cores, 1, 512)):
        if not low <= value <= high:
            raise RecipeError(f"{name} is {value}, expected {low} to {high}")
    from hela_store.sam.build import random_sam
    from hela_store.sam.encoder import encode

    encoder = random_sam(architecture).image_encoder.eval()
    frame, recipe = _frame(), AugmentRecipe(variants=views)
    label = np.zeros(FRAME, np.int32) if frame.label is None else frame.label
    limits = normalise.limits(frame.image, "percentile", offset=BLACK_LEVEL)
    found: dict[str, list[float]] = {"draw": [], "image": [], "labels": [], "encode": []}
    with threads(cores):
        for number in progress(range(views + 1), total=views + 1, what="bench augment"):
            variant = _timed(found["draw"], partial(draw_variant, recipe, frame.id, 0, number + 1, (tile, tile)))
            warp = Warp(variant, (FRAME[1] - tile, FRAME[0] - tile, tile, tile), FRAME)
            counts = _timed(found["image"], partial(render, frame.image, [warp], limits, BLACK_LEVEL))
            _timed(found["labels"], partial(warp.truth, label, frame.valid))
            pixels = normalise.apply(counts[0], *limits)
            _timed(found["encode"], partial(encode, encoder, pixels[None]))
    middle = {name: float(np.median(times[1:])) for name, times in found.items()}
    made = middle["image"] + middle["labels"]
    share = made / (made + middle["encode"])
    return AugmentBench(architecture=architecture, tile=tile, views=views, threads=cores, share=share, **middle)


def _timed(times: list[float], call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    value = call()
    times.append(time.perf_counter() - start)
    return value


def _frame() -> Frame:
    with tempfile.TemporaryDirectory() as folder:
        write_sequence(Path(folder), sequence="01", frames=1, shape=FRAME, cells=CELLS)
        reader = CtcReader(DatasetRecipe(path=folder), Path(folder))
        return reader.read(reader.entries[0])
