"""A session of labelling in a real browser, compared pixel by pixel with what is in the store."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from label_events import make_event
from teach_person import Label, Person, middle
from teach_server import serving, splittable

from hela_store.exchange.labels import export_labels
from hela_store.labels.log import LabelLog
from hela_store.labels.versions import label_at
from hela_store.store.store import Store

FRAME = "01/t000"


@pytest.mark.ci
def test_a_session_in_a_browser(store: Store, chromium: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    before = label_at(store, FRAME)
    first, second = splittable(before)[:2]

    def saved(person: Person, version: int) -> Label:
        return person.saved(store.path, version, FRAME)

    with serving("-s", store.path) as (address, server):
        person = Person(chromium, address)
        person.move(*middle(before, first)).click().perform()
        person.until(lambda: person.text("cell").startswith(f"Cell {first}:"))
        person.keys(Keys.DELETE)
        assert not (saved(person, 1) == first).any()

        # hover shows the mask, a click takes it; only background became cell
        person.move(*middle(before, first)).perform()
        person.until(lambda: "Click takes this mask" in person.text("cell"))
        person.actions().click().perform()
        taken = saved(person, 2)
        new = int(taken.max())
        shared = ((taken == new) & (before == first)).sum() / ((taken == new) | (before == first)).sum()
        assert new > before.max() and shared > 0.5
        np.testing.assert_array_equal(np.where(taken == new, 0, taken), np.where(before == first, 0, before))

        # a line through a cell splits it along the line
        x, y = middle(taken, second)
        person.keys("s")
        person.move(x, y - 25).click_and_hold().perform()
        person.move(x, y + 25).release().perform()
        split = saved(person, 3)
        parts = np.unique(split[before == second]).tolist()
        assert len(parts) == 2 and second in parts
        np.testing.assert_array_equal(np.isin(split, parts), before == second)

        # the two parts chosen, and merged again
        person.move(*middle(split, second)).click().perform()
        other = next(part for part in parts if part != second)
        person.move(*middle(split, other)).key_down(Keys.SHIFT).click().key_up(Keys.SHIFT).perform()
        person.until(lambda: "2 cells chosen" in person.text("cell"))
        person.keys("m")
        np.testing.assert_array_equal(saved(person, 4), taken)
        person.keys("?")
        person.until(lambda: "undo, redo" in person.text("list"))
        assert chromium.get_log("browser") == []
        server.kill()

    # all of it is taken back by another server, and made again
    with serving("-s", store.path) as (address, _):
        person = Person(chromium, address)
        for version in range(5, 9):
            person.control("z")
            saved(person, version)
        np.testing.assert_array_equal(label_at(Store.open(store.path), FRAME), before)
        for version in range(9, 13):
            person.control("y")
            saved(person, version)
        np.testing.assert_array_equal(label_at(Store.open(store.path), FRAME), taken)

    export_labels(Store.open(store.path), tmp_path / "out")
    written = next((tmp_path / "out").rglob("*000.tif"))
    np.testing.assert_array_equal(tifffile.imread(written), taken)


def is_at(store: Store, version: int) -> bool:
    return Store.open(store.path).labels_version == version


@pytest.mark.slow
def test_25_cells_a_fine_tuning_and_all_of_it_taken_back(store: Store, chromium: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    frames = [frame for frame, block in store.blocks().items() if block == "train"]
    with LabelLog(store) as log:
        for frame in frames:
            cells = tuple(np.unique(label_at(store, frame)[label_at(store, frame) > 0]).tolist())
            log.append([make_event("erase", frame, cells)])
    begun, wanted = len(frames), 25
    with serving("-s", store.path, "--every", "20", "--seconds", "1") as (address, server):
        person = Person(chromium, address)
        person.until(lambda: chromium.find_elements("css selector", "#frames small"))
        person.keys("n")
        for version in range(begun + 1, begun + wanted + 1):
            # the next cell is offered after each that is accepted
            person.until(lambda: "Offered" in person.text("cell"))
            person.keys(Keys.ENTER)
            person.until(partial(is_at, store, version))
        person.until(lambda: person.text("taught").startswith(f"{wanted} cells taught"))
        # 13 nuclei in two frames: a fifth of them, in both
        assert re.fullmatch(r"25 cells taught, [3-7] of them set aside to judge\.", person.text("taught"))
        # the control is shown beside the rule, and what came of the fine-tuning with its interval
        person.until(lambda: "at random by" in person.text("rule"))
        person.until(lambda: person.text("tuning").startswith("Round 1: trained on "))
        assert "95 % interval" in person.text("tuning") and "set aside" in person.text("tuning")
        person.until(lambda: "After 4 rounds" in person.text("forecast"))
        assert len(chromium.find_elements("css selector", "#curve circle")) == 2
        chromium.save_screenshot(str(tmp_path / "taught.png"))
        assert chromium.get_log("browser") == []
        server.kill()
    labels = {frame: label_at(Store.open(store.path), frame) for frame in frames}
    export_labels(Store.open(store.path), tmp_path / "out")
    for frame, label in labels.items():
        written = next((tmp_path / "out").rglob(f"*{frame[-3:]}.tif"))
        np.testing.assert_array_equal(tifffile.imread(written), label)
    with serving("-s", store.path) as (address, _):
        person = Person(chromium, address)
        assert person.text("tuning").startswith("Round 1")
        for version in range(begun + wanted + 1, begun + 2 * wanted + 1):
            person.control("z")
            person.until(partial(is_at, store, version))
        person.until(lambda: person.text("taught").startswith("0 cells taught"))
        for frame in frames:
            assert not label_at(Store.open(store.path), frame).any()
