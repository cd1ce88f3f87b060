"""Stored frames, segmented without their labels: detector, decoder, overlaps resolved.

Each embedding is read once. A frame is decoded as soon as its neighbours, where it needs them, have been looked at; so
two frames are in memory at a time where misses are recovered and frames come in the order of time, else one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hela_store.base.text import numbered
from hela_store.detection.detect import load_grid_head
from hela_store.detection.detections import Detections, no_detections
from hela_store.detection.frames import FrameTruth, truths
from hela_store.detection.propose import detect_frame
from hela_store.detection.rows import read_detections
from hela_store.errors import RunError
from hela_store.images.geometry import Rect
from hela_store.sam.devices import pick_device
from hela_store.store.store import Store

from .assemble import decode_detections, resolve
from .recover import neighbours, with_recovered
from .resolve import DetectedPrompts
from .scores import SegmentedFrame


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A frame with the embeddings of its tiles, of the store's dtype."""

    truth: FrameTruth
    embeddings: list[npt.NDArray[Any]]

    @property
    def name(self) -> str:
        return self.truth.frame.frame

    @property
    def shape(self) -> tuple[int, int]:
        return self.truth.frame.shape

    @property
    def tiles(self) -> list[Rect]:
        return [tile.rect for tile in self.truth.frame.tiles]

    def embedding(self, tile: int) -> Tensor:
        """Return the embedding of a tile by its number, float32, (256, 64, 64)."""
        return torch.from_numpy(np.asarray(self.embeddings[tile], np.float32))


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """A frame and the detections in it that count."""

    frame: _Frame
    found: Detections


def segmented_frames(store: Store, prompts: DetectedPrompts, frames: Sequence[str]) -> Iterator[SegmentedFrame]:
    """Segment stored frames, in their order.

    Parameters
    ----------
    store : with all views of these frames embedded
    prompts : from :func:`hela_store.segmentation.config.resolve_prompts`
    frames : ids
    """
    decoder = prompts.checkpoint.load_decoder(pick_device(prompts.config.device))
    near = _neighbours(store) if prompts.config.recover else {}
    known: dict[str, Detections] = {}
    if prompts.detector.kind == "detect":
        every = read_detections(prompts.detector)
        known = {name: found.above(prompts.threshold) for name, found in every.items()}
        looked = _kept(known, _frames(store, frames))
    else:
        looked = _detected(store, prompts, _frames(store, frames))
    there = {*frames, *known}
    near = {frame: [other for other in near.get(frame, []) if other in there] for frame in frames}
    for one, others in with_neighbours(looked, near, known):
        frame = one.frame
        decode = partial(decode_detections, decoder, frame, form=prompts.config.form, window=prompts.window)
        cells, found = with_recovered(decode, one.found, others, frame.shape)
        label, kept = resolve(cells, frame.shape)
        yield SegmentedFrame(truth=frame.truth, found=found, label=label, cells=kept)


def _frames(store: Store, frames: Sequence[str]) -> Iterator[_Frame]:
    for truth in truths(store, frames):
        rows = [tile.row for tile in truth.frame.tiles]
        yield _Frame(truth=truth, embeddings=[store.embedding_at(row) for row in rows])


def _kept(known: Mapping[str, Detections], frames: Iterable[_Frame]) -> Iterator[_Looked]:
    for frame in frames:
        yield _Looked(frame=frame, found=known.get(frame.name, no_detections()))


def _detected(store: Store, prompts: DetectedPrompts, frames: Iterable[_Frame]) -> Iterator[_Looked]:
    head = load_grid_head(store, prompts.detector, prompts.config.device)
    for frame in frames:
        embeddings = (frame.embedding(number) for number in range(len(frame.tiles)))
        found = detect_frame(head, embeddings, frame.tiles, frame.shape)
        yield _Looked(frame=frame, found=found.above(prompts.threshold))


def with_neighbours(
    looked: Iterable[_Looked], near: Mapping[str, Sequence[str]], known: Mapping[str, Detections]
) -> Iterator[tuple[_Looked, list[Detections]]]:
    """Yield frames in their order, each with the detections of its neighbours.

    A frame waits until its neighbours have been looked at; detections that no frame needs any more are let go.

    Parameters
    ----------
    looked : the frames
    near : for each of them its neighbours, which are among the frames or in ``known``
    known : detections that are known from the start, by frame
    """
    found: dict[str, Detections] = {}
    waiting: deque[_Looked] = deque()
    done: set[str] = set()
    for last in looked:
        waiting.append(last)
        found[last.frame.name] = last.found
        while waiting and all(other in found or other in known for other in near[waiting[0].frame.name]):
            one = waiting.popleft()
            name = one.frame.name
            yield one, [found[other] if other in found else known[other] for other in near[name]]
            done.add(name)
            for frame in (name, *near[name]):
                if frame in done and done.issuperset(near[frame]):
                    found.pop(frame, None)


def _neighbours(store: Store) -> dict[str, list[str]]:
    records = store.frame_records().values()
    if not store.recipe.dataset.stills:
        return neighbours([(record.frame, record.sequence, record.time) for record in records])
    # the time of a still is a running number, which says nothing; a number in its name does
    named = [(record, numbered(record.name)) for record in records]
    places = [(r.frame, f"{r.sequence}/{part[0]}", int(part[1])) for r, part in named if part is not None]
    if not places:
        raise RunError(
            "the frames are stills without numbers in their names, so none is before or after another; leave out "
            "--recover"
        )
    return neighbours(places)
