"""micro-sam's prompt-based segmentation runs on our predictor: the real package, which is not among our extras.

It brings another build of segment-anything along; ``pip install --no-deps micro-sam bioimage-cpp python-elf torch_em``
is enough for these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from frames import draw

import hela_store as hs


@pytest.fixture(scope="module")
def functions() -> Any:
    """Return micro-sam's module; skip where it is not installed."""
    return pytest.importorskip("micro_sam.prompt_based_segmentation", exc_type=ImportError)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_prompts_of_each_kind(functions: Any) -> None:
    model = hs.load("nano", device="cpu")
    image, label = draw(0, (160, 160), 6)
    model.set_image(image)
    for value in np.unique(label)[1:]:
        truth = label == value
        rows, columns = np.nonzero(truth)
        box = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
        click = np.array([[rows.mean(), columns.mean()]])
        answers = {
            "box": functions.segment_from_box(model, box),
            "click": functions.segment_from_points(model, click, np.array([1])),
            "mask": functions.segment_from_mask(model, truth.astype(np.uint8)),
            "both": functions.segment_from_box_and_points(model, box, click, np.array([1])),
        }
        for kind, mask in answers.items():
            assert mask.shape == (1, 160, 160), kind
            if kind != "click":  # nano answers clicks on discs of 12 px less surely
                assert iou(mask[0].astype(bool), truth) > 0.6, kind
        expected, _, _ = model.predict(box=box[[1, 0, 3, 2]], multimask_output=False)
        assert np.array_equal(answers["box"], expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_embeddings_that_it_computed(functions: Any) -> None:
    from micro_sam.util import precompute_image_embeddings

    model = hs.load("nano", device="cpu")
    image, label = draw(0, (160, 160), 6)
    kept = precompute_image_embeddings(model, image, verbose=False)
    model.reset_image()
    truth = label == 1
    rows, columns = np.nonzero(truth)
    box = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
    mask = functions.segment_from_box(model, box, image_embeddings=kept)
    assert iou(mask[0].astype(bool), truth) > 0.6
