"""Tools, fingers and several pages in a real browser, compared with what is in the store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_events import disc
from teach_person import Label, Person, faint, middle, phone, scheme
from teach_server import serving, splittable

from hela_store.labels.versions import label_at
from hela_store.metrics.overlap import overlap
from hela_store.store.store import Store

FRAME, AFTER = "01/t000", "01/t001"
BRUSH = 6
"""Radius of the brush, px of the frame."""


@pytest.fixture(scope="module")
def served(crowded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address of a page whose labels these tests change one after the other, and its store."""
    path = tmp_path_factory.mktemp("tools") / "store"
    shutil.copytree(crowded, path)
    with serving("-s", path, "--every", "1000") as (address, _):
        yield address, path


def now(path: Path, frame: str = FRAME) -> tuple[int, Label]:
    store = Store.open(path)
    return store.labels_version, label_at(store, frame)


def large(label: Label, place: int) -> int:
    """Return one of the largest cells that lie within the frame's outer band."""
    cells = splittable(label)
    return sorted(cells, key=lambda cell: -int((label == cell).sum()))[place]


def empty_place(label: Label, radius: int) -> tuple[int, int]:
    """Return a place around which there is nothing but background."""
    return next(
        (x, y) for y in range(60, 170, 4) for x in range(60, 200, 4) if not label[disc(label.shape, x, y, radius)].any()
    )


def stroke(shape: tuple[Any, ...], places: list[tuple[float, float]], radius: float) -> np.ndarray:
    """Return where a brush was, bool, (row, col)."""
    found = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in pairwise(places):
        for part in np.linspace(0, 1, 50):
            found |= disc(shape, x0 + (x1 - x0) * part - 0.5, y0 + (y1 - y0) * part - 0.5, radius)
    return found


@pytest.mark.ci
def test_brush_eraser_and_box(served: tuple[str, Path], chromium: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    address, path = served
    person = Person(chromium, address)
    version, before = now(path)
    cell = large(before, 0)
    x, y = middle(before, cell)

    # the eraser is told which cell it is for, and takes nothing but its pixels
    person.keys("e")
    person.drag((x, y), (x + 3, y))
    person.until(lambda: "Choose the cell to erase from" in person.text("told"))
    person.keys("v")
    person.move(x, y).click().perform()
    person.until(lambda: person.text("cell").startswith(f"Cell {cell}:"))
    person.keys("e")
    way = [(x, y - 25.0), (x, y + 25.0)]
    person.drag(*way)
    erased = person.saved(path, version + 1, FRAME)
    gone = (before == cell) & (erased != cell)
    assert (gone <= stroke(before.shape, way, BRUSH + 1)).all()
    assert (stroke(before.shape, way, BRUSH - 1) & (before == cell) <= gone).all() and gone.sum() > 50
    np.testing.assert_array_equal(np.where(gone, 0, before), erased)

    # the brush gives the chosen cell pixels of the background, and takes none from other cells
    person.keys("b")
    way = [(x - 30.0, y), (x + 30.0, y)]
    person.drag(*way)
    painted = person.saved(path, version + 2, FRAME)
    new = (erased == 0) & (painted == cell)
    assert (new <= stroke(before.shape, way, BRUSH + 1)).all() and new.sum() > 50
    assert (stroke(before.shape, way, BRUSH - 1) & (erased == 0) <= new).all()
    np.testing.assert_array_equal(np.where(new, cell, erased), painted)

    # with no cell chosen, one dab of the brush makes a cell
    person.keys(Keys.ESCAPE, "b")
    place = empty_place(painted, BRUSH + 3)
    person.move(*place).click().perform()
    dabbed = person.saved(path, version + 3, FRAME)
    made = dabbed > before.max()
    assert len(np.unique(dabbed[made])) == 1 and abs(int(made.sum()) - np.pi * BRUSH**2) < 15
    np.testing.assert_array_equal(np.where(made, 0, dabbed), painted)

    # a box around what was a cell
    other = large(before, 1)
    person.keys("v")
    person.move(*middle(before, other)).click().perform()
    person.until(lambda: person.text("cell").startswith(f"Cell {other}:"))
    person.keys(Keys.DELETE)
    deleted = person.saved(path, version + 4, FRAME)
    rows, columns = np.nonzero(before == other)
    left, top, right, bottom = (int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max()))
    person.drag((left - 1, top - 1), (right - 8, bottom), (right + 2, bottom + 2))
    boxed = person.saved(path, version + 5, FRAME)
    added = (boxed != deleted) & (boxed > dabbed.max())
    assert overlap(added, before == other, (0, 0), (0, 0)).iou > 0.6
    np.testing.assert_array_equal(np.where(added, 0, boxed), deleted)
    assert chromium.get_log("browser") == []


@pytest.mark.ci
def test_a_stroke_does_not_outlive_its_frame(served: tuple[str, Path], chromium: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    address, path = served
    person = Person(chromium, address)
    (version, label), (_, after) = now(path), now(path, AFTER)
    x, y = empty_place(np.maximum(label, after), BRUSH + 14)
    ways = {".": lambda: person.text("where").startswith(AFTER), Keys.ESCAPE: lambda: True, "v": lambda: True}
    for key, is_so in ways.items():
        person.keys("b")
        person.move(x, y).click_and_hold().perform()
        person.move(x + 5, y).perform()
        person.keys(key)
        person.until(is_so)
        person.move(x + 10, y).perform()
        person.actions().release().perform()
    assert now(path)[0] == version

    # and the next stroke is one of the frame that is shown
    person.keys("b")
    person.drag((x, y), (x + 5, y))
    painted = person.saved(path, version + 1, AFTER)
    new = painted != after
    assert (new <= stroke(after.shape, [(x, y), (x + 5.0, y)], BRUSH + 1)).all() and new.sum() > 80
    np.testing.assert_array_equal(now(path)[1], label)
    assert chromium.get_log("browser") == []


@pytest.mark.ci
def test_a_reloaded_page_is_alive(served: tuple[str, Path], chromium: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    address, path = served
    person = Person(chromium, address)
    version, before = now(path)
    cell = large(before, 2)
    person.move(*middle(before, cell)).click().perform()
    person.until(lambda: person.text("cell").startswith(f"Cell {cell}:"))
    person.keys(Keys.DELETE)
    deleted = person.saved(path, version + 1, FRAME)
    x, y = middle(before, cell)
    for step in range(4):  # questions that a page numbers on from
        person.move(x + step, y).perform()
        person.until(lambda: "Click takes this mask" in person.text("cell"))
    chromium.refresh()
    person.ready()
    person.move(x, y).perform()
    person.until(lambda: "Click takes this mask" in person.text("cell"))
    person.actions().click().perform()
    taken = person.saved(path, version + 2, FRAME)
    assert overlap(taken > deleted, before == cell, (0, 0), (0, 0)).iou > 0.5
    assert chromium.get_log("browser") == []


HELD = """
    const real = window.fetch;
    window.fetch = (address, ...rest) => {
      if (String(address).startsWith("edit")) window.edited = true;
      return String(address).startsWith("state") && !window.edited ? new Promise(() => {}) : real(address, ...rest);
    };
"""
"""Hold back what a page asks of others until it has changed something itself."""


@pytest.mark.ci
def test_two_tabs_see_each_other_and_lose_nothing(served: tuple[str, Path], chromium: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    address, path = served
    first = Person(chromium, address)
    version, before = now(path)
    one, two = large(before, 3), large(before, 4)
    left = chromium.current_window_handle
    chromium.execute_script("window.open(location.href)")  # which copies what the first tab keeps, too
    right = next(handle for handle in chromium.window_handles if handle != left)
    chromium.switch_to.window(right)
    first.ready()
    first.until(lambda: "1 other page has this store open, 1 of them this frame" in first.text("others"))
    chromium.switch_to.window(left)
    first.until(lambda: "1 other page" in first.text("others"))
    chromium.execute_script(HELD)

    chromium.switch_to.window(right)
    for cell in (one, two):
        first.move(*middle(before, cell)).key_down(Keys.SHIFT).click().key_up(Keys.SHIFT).perform()
    first.until(lambda: "2 cells chosen" in first.text("cell"))
    first.keys("m")
    merged = first.saved(path, version + 1, FRAME)
    assert (merged[before == two] == one).all()

    # the first tab still shows the cells apart: what it wants of them is refused, and it shows them as they are
    chromium.switch_to.window(left)
    first.move(*middle(before, two)).click().perform()
    first.until(lambda: first.text("cell").startswith(f"Cell {two}:"))
    first.keys(Keys.DELETE)
    first.until(lambda: first.text("saved") == "NOT saved")
    assert "was changed in another page" in first.text("told")
    np.testing.assert_array_equal(now(path)[1], merged)
    first.move(*middle(before, two)).click().perform()
    first.until(lambda: first.text("cell").startswith(f"Cell {one}:"))
    first.keys(Keys.DELETE)
    np.testing.assert_array_equal(first.saved(path, version + 2, FRAME), np.where(merged == one, 0, merged))

    # closing a tab is told, too
    chromium.switch_to.window(right)
    chromium.close()
    chromium.switch_to.window(left)
    first.until(lambda: first.text("others") == "")


@pytest.mark.ci
def test_fingers_on_a_phone(served: tuple[str, Path], chromium: Any, tmp_path: Path) -> None:
    address, path = served
    phone(chromium)
    person = Person(chromium, address)
    version, before = now(path)
    cell = large(before, 0)
    x, y = middle(before, cell)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    chromium.save_screenshot(str(tmp_path / "phone.png"))
    assert faint(chromium) == []

    person.tap(x, y)
    person.until(lambda: person.text("cell").startswith(f"Cell {cell}:"))
    chromium.find_element("css selector", "[data-act=erase]").click()
    deleted = person.saved(path, version + 1, FRAME)
    person.tap(x, y)
    taken = person.saved(path, version + 2, FRAME)
    new = int(taken.max())
    assert new > before.max() and taken[int(y), int(x)] == new, "the mask that is taken is the one under the finger"

    # a finger that stays is the right button: the place does not belong to the cell
    rows, columns = np.nonzero(taken == new)
    edge = int(np.argmax(columns))
    person.touch("touchStart", (float(columns[edge]) - 1, float(rows[edge]) + 0.5))
    corrected = person.saved(path, version + 3, FRAME)
    person.touch("touchEnd")
    assert corrected[rows[edge], columns[edge] - 1] != new and (corrected != taken).any()

    # one finger moves the frame, two zoom it, and neither labels anything
    person.touch("touchStart", (x, y))
    person.touch("touchMove", (x + 30, y))
    person.touch("touchEnd")
    person.touch("touchStart", (100, 100), (140, 100))
    person.touch("touchMove", (80, 100), (160, 100))
    person.touch("touchEnd")
    chromium.save_screenshot(str(tmp_path / "zoomed.png"))
    assert now(path)[0] == version + 3
    np.testing.assert_array_equal(np.where(taken == new, 0, taken), deleted)

    # with the brush a finger draws
    person.move(0, 0)
    person.browser.find_element("css selector", "#help").click()
    person.browser.find_element("css selector", "#close").click()
    person.keys("0", "b")
    place = empty_place(corrected, BRUSH + 12)
    person.touch("touchStart", place)
    for step in (3, 6, 9):
        person.touch("touchMove", (place[0] + step, place[1]))
    person.touch("touchEnd")
    painted = person.saved(path, version + 4, FRAME)
    made = painted != corrected
    way = [(float(place[0]), float(place[1])), (place[0] + 9.0, float(place[1]))]
    assert (made <= stroke(made.shape, way, BRUSH + 1)).all() and made.sum() > 80
    assert chromium.get_log("browser") == []


@pytest.mark.parametrize("wanted", ["dark", "light"])
def test_both_themes_can_be_read(served: tuple[str, Path], chromium: Any, tmp_path: Path, wanted: str) -> None:
    scheme(chromium, wanted)
    person = Person(chromium, served[0])
    dark = "return matchMedia('(prefers-color-scheme: dark)').matches"
    assert chromium.execute_script(dark) == (wanted == "dark")
    person.keys("p")
    person.until(lambda: chromium.find_element("id", "proposals").is_selected())
    assert faint(chromium) == []
    chromium.save_screenshot(str(tmp_path / f"{wanted}.png"))
    person.keys("?")
    person.until(lambda: "undo, redo" in person.text("list"))
    assert faint(chromium) == []
    chromium.save_screenshot(str(tmp_path / f"{wanted}-keys.png"))
    person.keys("?")
    assert chromium.get_log("browser") == []
