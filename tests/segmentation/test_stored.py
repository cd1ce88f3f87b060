"""Stored frames are segmented one after another: each embedding is read once, in whatever order frames come."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hela_store.detection.detect import detect
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.resolve import resolve_prompts
from hela_store.segmentation.scores import SegmentedFrame
from hela_store.segmentation.stored import segmented_frames
from hela_store.store.arrays import Arrays
from hela_store.store.store import Store

RECOVER = DetectedConfig(split="all", threshold=0.2, recover=True, device="cpu")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each embedding is read."""
    counted: Counter[int] = Counter()
    read = Arrays.embedding

    def embedding(self: Arrays, key: str, row: int) -> object:
        counted[row] += 1
        return read(self, key, row)

    monkeypatch.setattr(Arrays, "embedding", embedding)
    return counted


def labels(frames: list[SegmentedFrame]) -> dict[str, bytes]:
    return {frame.truth.frame.frame: frame.label.tobytes() for frame in frames}


def test_each_embedding_is_read_once_just_before_its_frame(detector_store: Store, reads: Counter[int]) -> None:
    frames = list(detector_store.frame_records())
    for config, ahead in ((replace(RECOVER, recover=False), 0), (RECOVER, 1)):
        reads.clear()
        for number, frame in enumerate(
            segmented_frames(detector_store, resolve_prompts(detector_store, config), frames)
        ):
            assert frame.truth.frame.frame == frames[number]
            assert len(reads) == min(number + 1 + ahead, len(frames))
        assert set(reads.values()) == {1}


def test_the_order_of_frames_changes_no_mask(detector_store: Store, reads: Counter[int]) -> None:
    prompts, frames = resolve_prompts(detector_store, RECOVER), list(detector_store.frame_records())
    forward = list(segmented_frames(detector_store, prompts, frames))
    assert any(cell.recovered for frame in forward for cell in frame.cells)
    reads.clear()
    mixed = [*frames[1::2], *frames[::2]]
    shuffled = list(segmented_frames(detector_store, prompts, mixed))
    assert [frame.truth.frame.frame for frame in shuffled] == mixed
    assert labels(shuffled) == labels(forward) and set(reads.values()) == {1}


def test_stored_detections_give_the_masks_of_their_detector(detector_store: Store) -> None:
    frames = list(detector_store.frame_records())
    first = labels(list(segmented_frames(detector_store, resolve_prompts(detector_store, RECOVER), frames)))
    run = detect(detector_store, split="all", threshold=0.2, device="cpu").run
    stored = resolve_prompts(detector_store, replace(RECOVER, detector=run))
    assert stored.trained is not None and stored.trained.kind == "detector"
    # frames outside of what is asked for are neighbours, too: their detections are known
    found = labels(list(segmented_frames(detector_store, stored, frames[2:4])))
    assert found == {frame: first[frame] for frame in frames[2:4]}
    assert all(np.frombuffer(label, np.uint16).any() for label in found.values())
