"""`hela-store bench predict`: masks of a box, of a frame, of a large image, and vectors of cells, with nano.

The peer is ``SamPredictor.predict`` of segment-anything, one box at a time, on the same embedding; it takes turns with
ours, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor

from hela_store.base.aliases import FloatArray
from hela_store.base.progress import Progress, silent
from hela_store.detection.detections import from_boxes
from hela_store.detection.generic import load_generic_head
from hela_store.detection.propose import detect_frame
from hela_store.images.geometry import EMBEDDING_POSITIONS
from hela_store.predictor.frame import EncodedFrame, encode_tile
from hela_store.predictor.load import load
from hela_store.predictor.predictor import Predictor
from hela_store.segmentation.assemble import decode_detections, resolve

from .vectors import VectorRow, time_vectors

VIEW = (512, 512)
FRAME = (700, 1100)
CELL = 24
"""Diameter of a drawn disc, px, as a HeLa nucleus at 10x has."""


@dataclass(frozen=True, kw_only=True)
class BoxRow:
    """Milliseconds a box given the embedding; ``ratio`` is the peer's over ours, a median over the rounds."""

    way: str
    window: int
    ours_ms: float
    peer_ms: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class PredictBench:
    """The measured times and memory.

    Attributes
    ----------
    device, threads, rounds : conditions
    rows : a box, in three ways
    cells : in the frame of 700 x 1100 px
    normalise, encode, detect, decode, resolve : seconds a frame, medians
    frame_seconds : their sum, from pixels to labels
    large : edge of the large image, px
    large_boxes : boxes that were asked for in it, each in another place
    large_mib : most memory of a process of its own that answered them, MiB
    vectors : vectors of cells against reading the same embeddings
    """

    device: str
    threads: int
    rounds: int
    rows: tuple[BoxRow, ...]
    cells: int
    normalise: float
    encode: float
    detect: float
    decode: float
    resolve: float
    frame_seconds: float
    large: int
    large_boxes: int
    large_mib: float
    vectors: VectorRow


def bench_predict(
    *,
    boxes: int = 64,
    rounds: int = 3,
    large: int = 8000,
    large_boxes: int = 32,
    frames: int = 40,
    device: str = "auto",
    progress: Progress = silent,
) -> PredictBench:
    """Time and weigh the predictor and its parts.

    Parameters
    ----------
    boxes : boxes a view
    rounds : how often each is timed
    large : edge of the large image, px
    large_boxes : boxes in it
    frames : drawn frames of 700 x 1100 px whose six views are embedded for vectors of their cells
    device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    progress : shown part by part
    """
    model = load("nano", device=device)
    found: dict[str, Any] = {}
    jobs: list[Callable[[], dict[str, Any]]] = [
        lambda: {"rows": _box_rows(model, boxes, rounds)},
        lambda: _frame_parts(model, rounds),
        lambda: {"large_mib": _in_a_process(large, large_boxes, device)},
        lambda: {"vectors": time_vectors(frames, rounds, device)},
    ]
    for job in progress(jobs, total=len(jobs), what="bench predict"):
        found |= job()
    about: dict[str, Any] = {"device": str(model.device), "threads": torch.get_num_threads(), "rounds": rounds}
    return PredictBench(**about, large=large, large_boxes=large_boxes, **found)


def _discs(shape: tuple[int, int], count: int) -> tuple[npt.NDArray[np.uint16], FloatArray]:
    """Return bright discs on noise, and their boxes, (N, 4) ``(x0, y0, x1, y1)`` px."""
    rng = np.random.default_rng(0)
    image = rng.integers(180, 220, shape, np.uint16)
    side = 2 * CELL
    places = rng.permutation((shape[0] // side) * (shape[1] // side))[:count]
    corners = np.stack([places % (shape[1] // side), places // (shape[1] // side)], 1) * side + CELL // 2
    y, x = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
    disc = (800 * (np.hypot(x, y) <= CELL / 2)).astype(np.uint16)
    for left, top in corners:
        image[top : top + CELL, left : left + CELL] += disc
    return image, np.concatenate([corners, corners + CELL], 1).astype(float)


def _box_rows(model: Predictor, count: int, rounds: int) -> tuple[BoxRow, ...]:
    image, boxes = _discs(VIEW, count)
    model.set_image(image)
    peer = SamPredictor(model.model)
    peer.features, peer.is_image_set = model.features, True
    peer.original_size, peer.input_size = model.original_size, model.input_size
    default = model.parts.window

    def peers() -> None:
        for box in boxes:
            peer.predict(box=box, multimask_output=False)

    def one_by_one() -> None:
        for box in boxes:
            model.predict(box=box, multimask_output=False)

    ways: list[tuple[str, int, Callable[[], Any]]] = [
        ("predict_boxes", default, lambda: model.predict_boxes(None, boxes)),
        ("predict_boxes", EMBEDDING_POSITIONS, lambda: model.predict_boxes(None, boxes, window=EMBEDDING_POSITIONS)),
        ("predict", default, one_by_one),
    ]
    rows = []
    for way, window, work in ways:
        work()
        times = [(_seconds(work), _seconds(peers)) for _ in range(rounds)]
        ours, theirs = (1000 * median(part) / len(boxes) for part in zip(*times, strict=True))
        ratio = median(b / a for a, b in times)
        rows.append(BoxRow(way=way, window=window, ours_ms=ours, peer_ms=theirs, ratio=ratio))
    return tuple(rows)


def _frame_parts(model: Predictor, rounds: int) -> dict[str, float]:
    """Time each part of a segmentation; cells are asked for by their true boxes, whatever the detector says."""
    image, boxes = _discs(FRAME, 100)
    head = load_generic_head(model.parts.recipe.encoder.sha256, model.device)
    recipe, decoder = model.parts.recipe, model.parts.decoder
    encode = encode_tile(model.model.image_encoder, recipe.encoder.precision)
    found = from_boxes(boxes, np.ones(len(boxes)))
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        marks = [time.perf_counter()]
        frame = EncodedFrame(image, recipe, encode)
        marks.append(time.perf_counter())
        embeddings = [frame.embedding(tile) for tile in range(len(frame.tiles))]
        marks.append(time.perf_counter())
        detect_frame(head, embeddings, frame.tiles, frame.shape)
        marks.append(time.perf_counter())
        cells = decode_detections(decoder, frame, found, form="box", window=model.parts.window)
        marks.append(time.perf_counter())
        resolve(cells, frame.shape)
        marks.append(time.perf_counter())
        for part, seconds in zip(("normalise", "encode", "detect", "decode", "resolve"), np.diff(marks), strict=True):
            taken.setdefault(part, []).append(float(seconds))
    parts = {part: median(times) for part, times in taken.items()}
    return parts | {"frame_seconds": sum(parts.values()), "cells": len(boxes)}


def _in_a_process(side: int, boxes: int, device: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_large, (side, boxes, device))


def _large(side: int, boxes: int, device: str) -> float:
    """Return the most memory of this process, MiB, after it answered boxes in a large image."""
    image, where = _discs((side, side), boxes)
    load("nano", device=device).predict_boxes(image, where)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
