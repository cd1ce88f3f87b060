from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hela_store.errors import PromptError
from hela_store.prompts.image_free import (
    disc_at_point,
    ellipse_in_box,
    ellipse_of_mask,
    image_free_mask,
    image_free_score,
)
from hela_store.prompts.prompt import Prompt

REALDATA = Path(os.environ.get("HELA_REALDATA", Path(__file__).parents[3] / "shared/data"))


def test_an_ellipse_fills_its_box() -> None:
    mask, origin = ellipse_in_box(np.array([10, 20, 30, 28]))
    assert origin == (10, 20)
    assert mask.shape == (8, 20)
    assert mask.sum() == pytest.approx(math.pi * 10 * 4, rel=0.03)
    assert np.array_equal(mask, mask[::-1, ::-1])


def test_the_box_of_a_pixel_is_that_pixel() -> None:
    mask, origin = ellipse_in_box(np.array([3, 5, 4, 6]))
    assert (mask.tolist(), origin) == ([[True]], (3, 5))


def test_a_disc_is_centred_on_its_pixel() -> None:
    mask, origin = disc_at_point(np.array([50.0, 40.0]), 5.0)
    assert origin == (45, 35)
    assert mask.shape == (11, 11)
    assert mask[5, 0]
    assert not mask[0, 0]
    assert mask.sum() == pytest.approx(math.pi * 25, rel=0.05)


def test_the_ellipse_of_a_mask_keeps_place_direction_and_shape_and_is_halfway_to_the_usual_size() -> None:
    rows, columns = np.mgrid[:120, :160]
    u, v = (columns - 70) * 0.8 + (rows - 50) * 0.6, (rows - 50) * 0.8 - (columns - 70) * 0.6
    tilted = (u / 40) ** 2 + (v / 20) ** 2 <= 1
    for radius, share in ((np.sqrt(800), 1.0), (200 / np.sqrt(800), 0.5)):
        mask, (x, y) = ellipse_of_mask(tilted, (5, 7), float(radius))
        expected = (u / (40 * share)) ** 2 + (v / (20 * share)) ** 2 <= 1
        placed = np.zeros(tilted.shape, bool)
        placed[y - 7 : y - 7 + mask.shape[0], x - 5 : x - 5 + mask.shape[1]] = mask
        assert (placed & expected).sum() / (placed | expected).sum() > 0.97
        assert mask.sum() == pytest.approx(math.pi * 800 * share**2, rel=0.02)
    line = np.ones((1, 9), bool)
    for thin in (line, line[:, :1]):
        mask, (x, y) = ellipse_of_mask(thin, (3, 4), 3.0, (6, 8))
        assert mask.any() and 0 <= x <= x + mask.shape[1] <= 8 and 0 <= y <= y + mask.shape[0] <= 6


@settings(deadline=None)
@given(
    st.tuples(st.floats(0, 29), st.floats(0, 19)),
    st.tuples(st.floats(1, 40), st.floats(1, 40)),
)
def test_it_stays_in_the_frame_and_is_never_empty(corner: tuple[float, float], extent: tuple[float, float]) -> None:
    box = np.array([*corner, min(corner[0] + extent[0], 30), min(corner[1] + extent[1], 20)])
    for mask, (x, y) in (ellipse_in_box(box, (20, 30)), disc_at_point(np.array(corner), extent[0], (20, 30))):
        assert mask.any()
        assert 0 <= x <= x + mask.shape[1] <= 30
        assert 0 <= y <= y + mask.shape[0] <= 20


def test_each_prompt_has_its_answer() -> None:
    truth = np.ones((4, 4), bool)
    mask = Prompt(kind="mask", mask=truth[:2], mask_origin=(7, 9))
    shared = image_free_score(mask, truth, (7, 9), 5.0)
    assert (shared.iou, shared.dice) == pytest.approx((0.5, 2 / 3))
    points = Prompt(kind="point", points=np.array([[0.0, 0.0], [8.0, 10.0]]), point_labels=np.array([0, 1], np.int64))
    _, origin = image_free_mask(points, 1.0)
    assert origin == (7, 9)
    with pytest.raises(PromptError, match="without mask, box or a point"):
        image_free_mask(Prompt(kind="point"), 5.0)


@pytest.mark.realdata
def test_ellipses_on_real_nuclei_score_what_the_design_says() -> None:
    files = sorted((REALDATA / "Fluo-N2DL-HeLa/01_ST/SEG").glob("*.tif"))[70:92]
    if not files:
        pytest.skip(f"no real frames under {REALDATA}; set HELA_REALDATA")
    scores = []
    for file in files:
        labels = tifffile.imread(file)
        for label, place in enumerate(ndimage.find_objects(labels), 1):
            if place is not None:
                rows, columns = place
                box = np.array([columns.start, rows.start, columns.stop, rows.stop], float)
                prompt = Prompt(kind="box-exact", box=box)
                found = image_free_score(prompt, labels[place] == label, (columns.start, rows.start), 12.0)
                scores.append((found.iou, found.dice))
    assert np.mean(scores, axis=0) == pytest.approx((0.834, 0.907), abs=0.001)
