"""The report in a real browser: no errors, charts drawn, a selection in a chart filters the gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hela_store.show.report import report
from hela_store.store.store import Store


@pytest.mark.ci
def test_the_report_in_a_browser(scored: Path, tmp_path: Path, chromium: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.support.ui import WebDriverWait

    made = report(Store.open(scored), out=tmp_path / "report.html")
    chromium.get(Path(made.path).as_uri())
    wait = WebDriverWait(chromium, 120)
    wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")
    assert [line for line in chromium.get_log("browser") if "favicon" not in line["message"]] == []
    drawn = "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('svg path').length)"
    marks = chromium.execute_script(drawn)
    assert len(marks) == made.charts and min(marks) > 2

    def count() -> int:
        return int(chromium.execute_script("return document.getElementById('count').textContent.split(' ')[0]"))

    assert count() == made.cards
    # drag over the left half of the first histogram
    find = "return [...document.querySelectorAll('figcaption')].find(c => c.textContent.startsWith('IoU, box')).nextElementSibling"
    chart = chromium.execute_script(f"{find}.querySelector('svg')")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    size = chart.rect
    start = (int(-size["width"] * 0.2), 0)
    ActionChains(chromium).move_to_element_with_offset(chart, *start).click_and_hold().move_by_offset(
        int(size["width"] * 0.4), 20
    ).release().perform()
    wait.until(lambda b: "filtered" in b.execute_script("return document.getElementById('count').textContent"))
    assert count() < made.cards
    shown = chromium.execute_script(
        "return [...document.querySelectorAll('.card .facts:nth-child(2)')].map(e => e.textContent)"
    )
    assert all(text.startswith("box") for text in shown)
    chromium.execute_script("document.getElementById('clear').click()")
    wait.until(lambda b: count() == made.cards)

    chromium.execute_script("document.querySelector('#layers input').click()")
    hidden = "return getComputedStyle(document.querySelector('.card path.truth')).display"
    assert chromium.execute_script(hidden) == "none"

    # the worst frames come first, and are drawn when they are seen
    assert made.sections[0] == "frames"
    chromium.execute_script("scrollTo(0, 0)")
    box = chromium.find_element("css selector", ".frame")
    wait.until(lambda b: box.get_attribute("data-drawn") == "yes")
    ink = (
        "const { width, height } = arguments[0];"
        "return arguments[0].getContext('2d').getImageData(0, 0, width, height).data.filter((v, i) => i % 4 === 3 && v).length"
    )
    canvas = chromium.find_element("css selector", ".frame .drawn")
    wait.until(lambda b: b.execute_script(ink, canvas) > 500)
    chromium.save_screenshot(str(tmp_path / "frames.png"))
    for name in ("labels", "predictions"):
        chromium.find_element("id", f"frame-{name}").click()
    wait.until(lambda b: b.execute_script(ink, canvas) == 0)
    chromium.find_element("id", "frame-labels").click()
    label = Store.open(scored).pixels.label("01/t007")
    row, column = (int(np.median(place)) for place in np.nonzero(label == label.max()))
    zoom = min(box.size["width"] / label.shape[1], box.size["height"] / label.shape[0]) * 0.98
    dx, dy = (column + 0.5 - label.shape[1] / 2) * zoom, (row + 0.5 - label.shape[0] / 2) * zoom
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    ActionChains(chromium).move_to_element_with_offset(box, round(dx), round(dy)).perform()
    told = chromium.find_element("css selector", ".told")
    wait.until(lambda b: told.text.startswith("01/t007#") and "IoU" in told.text)
    # the wheel scrolls the page until the frame was clicked
    before = chromium.execute_script("return scrollY")
    ActionChains(chromium).scroll_from_origin(ScrollOrigin.from_element(box), 0, 200).perform()
    wait.until(lambda b: b.execute_script("return scrollY") > before + 50)

    # no wider than a phone
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chromium.refresh()
    wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
