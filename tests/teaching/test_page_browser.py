"""A session of labelling in a real browser, compared pixel by pixel with what is in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from teach_server import serving, splittable

from hela_store.exchange.labels import export_labels
from hela_store.labels.versions import label_at
from hela_store.store.store import Store

FRAME = "01/t000"
ON_SCREEN = """
    const box = document.querySelector(".moving").getBoundingClientRect();
    const zoom = Math.min(box.width / 256, box.height / 224) * 0.98;
    return [(arguments[0] - 128) * zoom, (arguments[1] - 112) * zoom];
"""
"""From px of the frame to px from the middle of the canvas, which shows the whole frame."""


class Person:
    """Someone with a mouse and a keyboard."""

    def __init__(self, browser: Any, address: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.wait = browser, WebDriverWait(browser, 120)
        browser.get(address)
        self.until(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")

    def until(self, true: Callable[[], Any]) -> None:
        self.wait.until(lambda _: true())

    def text(self, name: str) -> str:
        return str(self.browser.find_element("id", name).text)

    def actions(self) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.browser)

    def move(self, x: float, y: float) -> Any:
        canvas = self.browser.find_element("css selector", ".moving")
        dx, dy = self.browser.execute_script(ON_SCREEN, x, y)
        return self.actions().move_to_element_with_offset(canvas, round(dx), round(dy))

    def keys(self, *keys: str) -> None:
        self.actions().send_keys(*keys).perform()

    def control(self, key: str) -> None:
        from selenium.webdriver.common.keys import Keys

        self.actions().key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()


def middle(label: npt.NDArray[np.int32], cell: int) -> tuple[float, float]:
    rows, columns = np.nonzero(label == cell)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def test_a_session_in_a_browser(store: Store, chromium: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    before = label_at(store, FRAME)
    first, second = splittable(before)[:2]

    def latest() -> npt.NDArray[np.int32]:
        return label_at(Store.open(store.path), FRAME)

    def saved(person: Person, version: int) -> npt.NDArray[np.int32]:
        person.until(lambda: Store.open(store.path).labels_version == version and person.text("saved") == "saved")
        return latest()

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
        np.testing.assert_array_equal(latest(), before)
        for version in range(9, 13):
            person.control("y")
            saved(person, version)
        np.testing.assert_array_equal(latest(), taken)

    export_labels(Store.open(store.path), tmp_path / "out")
    written = next((tmp_path / "out").rglob("*000.tif"))
    np.testing.assert_array_equal(tifffile.imread(written), taken)
