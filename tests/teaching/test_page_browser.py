"""A session of labelling in a real browser, compared pixel by pixel with what is in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from teach_person import Label, Person, middle
from teach_server import serving, splittable

from hela_store.exchange.labels import export_labels
from hela_store.labels.versions import label_at
from hela_store.store.store import Store

FRAME = "01/t000"


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
