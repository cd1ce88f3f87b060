"""Cells that neighbouring frames show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cells import cell

from hela_store.detection.detections import from_boxes, no_detections
from hela_store.images.rle import decode, encode
from hela_store.segmentation.config import DetectedConfig
from hela_store.segmentation.evaluate import evaluate_detected
from hela_store.segmentation.recover import neighbours, proposals, recovered
from hela_store.store.store import Store

SHAPE = (100, 200)
BOXES = np.array([[10, 10, 30, 30], [40, 10, 60, 30], [70, 10, 90, 30], [170, 70, 200, 100]], float)


def test_a_lost_cell_is_asked_for_where_its_neighbours_went() -> None:
    before = from_boxes(BOXES, np.ones(4))
    mask = encode(np.ones((20, 20), bool), (40, 10), SHAPE)
    before = replace(before, masks=(None, mask, None, None))
    here = from_boxes(BOXES[[0, 2, 3]] + [4, 2, 4, 2], np.ones(3))
    asked = proposals(here, [before], SHAPE)
    assert asked.boxes.tolist() == [[44, 12, 64, 32]]
    assert asked.masks[0] is not None and decode(asked.masks[0], (asked.masks[0].height, asked.masks[0].width))[1] == (
        44,
        12,
    )
    assert asked.points.tolist() == [[53.5, 21.5]]
    # both neighbours have it: it is asked for once
    assert len(proposals(here, [before, before], SHAPE)) == 1
    assert len(proposals(before, [before], SHAPE)) == 0
    assert len(proposals(no_detections(), [before], SHAPE)) == 4
    assert len(proposals(here, [no_detections()], SHAPE)) == 0


def test_a_box_that_left_the_frame_is_not_asked_for() -> None:
    before = from_boxes([[0, 0, 5, 5], [30, 30, 50, 50]], np.ones(2))
    here = from_boxes([[24, 24, 44, 44]], np.ones(1))
    assert len(proposals(here, [before], SHAPE)) == 0


def test_only_sure_answers_in_their_place_count() -> None:
    sure, unsure = cell(0, 0, 0, 5, 0.9), cell(1, 0, 0, 5, 0.7)
    astray = replace(cell(2, 0, 0, 5, 0.9), box_agreement=0.2)
    kept = recovered([sure, unsure, astray], 10)
    assert [(c.number, c.recovered) for c in kept] == [(10, True)]


def test_neighbours_stay_in_their_sequence() -> None:
    assert neighbours([("a/0", "a", 0), ("a/1", "a", 1), ("b/1", "b", 1)]) == {
        "a/0": ["a/1"],
        "a/1": ["a/0"],
        "b/1": [],
    }


def test_recall_never_falls(detector_store: Store) -> None:
    config = DetectedConfig(split="all", threshold=0.35, device="cpu")
    plain = evaluate_detected(detector_store, config)
    more = evaluate_detected(detector_store, replace(config, recover=True))
    assert plain.recovered == 0 and more.recall >= plain.recall
    assert more.cells - more.missed == plain.cells - plain.missed + more.recovered_right
    assert Path(detector_store.path / "runs" / more.run / "detections.parquet").exists()


@pytest.mark.parametrize("form", ["point", "mask"])
def test_other_forms_of_prompt(detector_store: Store, form: str) -> None:
    result = evaluate_detected(detector_store, DetectedConfig(split="val", threshold=0.2, form=form, device="cpu"))
    assert result.cells > 0 and result.frames == 1
