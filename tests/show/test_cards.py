from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hela_store.catalog import index as catalog
from hela_store.show.cards import crop_around, draw_cards, label_edges, outline, picture
from hela_store.show.explorer.answer import CARDS
from hela_store.store.store import Store


def corners(path: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[ML]([\d.-]+ [\d.-]+)", path)])


@given(st.integers(0, 12), st.integers(0, 9), st.integers(1, 8), st.integers(1, 6))
def test_an_outline_surrounds_its_pixels(x: int, y: int, width: int, height: int) -> None:
    mask = np.zeros((20, 25), bool)
    mask[y : y + height, x : x + width] = True
    found = corners(outline(mask, (3, 5)))
    # the pixel (0, 0) covers 0 to 1; contours cut its corners by at most half a pixel
    assert np.abs(found.min(0) - (x + 3, y + 5)).max() <= 0.3
    assert np.abs(found.max(0) - (x + width + 3, y + height + 5)).max() <= 0.3


def test_nothing_has_no_outline() -> None:
    assert outline(np.zeros((5, 5), bool)) == "" == outline(np.zeros((0, 0), bool))


@given(st.integers(0, 90), st.integers(0, 60), st.integers(1, 200), st.integers(1, 200))
def test_crops_lie_in_the_frame(x: int, y: int, width: int, height: int) -> None:
    box = (x, y, min(x + width, 100), min(y + height, 70))
    x0, y0, w, h = crop_around(box, (70, 100))
    assert x0 >= 0 and y0 >= 0 and x0 + w <= 100 and y0 + h <= 70
    assert x0 <= box[0] and y0 <= box[1] and x0 + w >= box[2] and y0 + h >= box[3]


@pytest.mark.parametrize("values", [np.arange(12.0).reshape(3, 4), np.full((3, 4), 7), np.full((3, 4), np.nan)])
def test_any_crop_becomes_a_picture(values: np.ndarray) -> None:
    address = picture(values)
    image = Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/webp;base64,"))))
    assert image.size == (4, 3)


def test_edges_of_labels() -> None:
    label = np.array([[0, 1, 1], [0, 1, 2]])
    assert label_edges(label).tolist() == [[True, False, True], [True, True, False]]


def test_cards_show_truth_prompt_and_prediction(scored: Path) -> None:
    store = Store.open(scored)
    keys = store.sql("SELECT cell, run, prompt, prompt_seed FROM cell_metrics WHERE NOT is_empty LIMIT 40").fetchall()
    cell, run, prompt, seed = (list(column) for column in zip(*keys, strict=True))
    asked = {"place": list(range(len(cell))), "cell": cell, "run": run, "prompt": prompt, "seed": seed}
    rows = catalog.query(scored, CARDS, asked).to_pylist()
    cards = list(draw_cards(store, rows))
    assert len(cards) == len(keys)
    for row, card in zip(rows, cards, strict=True):
        assert card.truth and card.prediction and (card.prompt or card.points)
        middle = corners(card.truth).mean(0)
        assert 0 < middle[0] < card.width and 0 < middle[1] < card.height
        if row["kind"] == "point":
            (x, y, kind), *_ = card.points
            crop = crop_around((row["x0"], row["y0"], row["x1"], row["y1"]), store.pixels.image(row["frame"]).shape)
            label = store.pixels.label(row["frame"], crop)
            assert kind == 1 and label[int(y), int(x)] == row["label"]
