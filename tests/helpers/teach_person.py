"""Someone in front of the page of `hela-store teach`: with a mouse and a keyboard, or with fingers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hela_store.labels.versions import label_at
from hela_store.store.store import Store

Label = npt.NDArray[np.int32]
ON_SCREEN = """
    const box = document.querySelector(".moving").getBoundingClientRect();
    const zoom = Math.min(box.width / 256, box.height / 224) * 0.98;
    return [(arguments[0] - 128) * zoom, (arguments[1] - 112) * zoom, box.x + box.width / 2, box.y + box.height / 2];
"""
"""From px of a frame of 224x256 px to px from the middle of the canvas, which shows the whole frame, and that middle."""
READY = "return document.documentElement.dataset.ready"


class Person:
    """Someone with a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser, self.wait = browser, WebDriverWait(browser, 120)
        browser.get(address)
        self.ready()

    def ready(self) -> None:
        """Wait until the page can be used."""
        self.until(lambda: self.browser.execute_script(READY) == "yes")

    def until(self, true: Callable[[], Any]) -> None:
        """Wait until something is true."""
        self.wait.until(lambda _: true())

    def text(self, name: str) -> str:
        """Return the text of an element by its id."""
        return str(self.browser.find_element("id", name).text)

    def saved(self, store: Path, version: int, frame: str) -> Label:
        """Wait until a version is saved and the page says so; return the labels of a frame, int32, (row, col)."""
        self.until(lambda: Store.open(store).labels_version == version and self.text("saved") == "saved")
        return label_at(Store.open(store), frame)

    def actions(self) -> Any:
        """Return what mouse and keyboard do next."""
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.browser)

    def move(self, x: float, y: float) -> Any:
        """Move the mouse to a place of the frame, px."""
        canvas = self.browser.find_element("css selector", ".moving")
        dx, dy, *_ = self.browser.execute_script(ON_SCREEN, x, y)
        return self.actions().move_to_element_with_offset(canvas, round(dx), round(dy))

    def drag(self, *places: Sequence[float]) -> None:
        """Press at the first place, move over the others, and let go at the last one."""
        self.move(*places[0]).click_and_hold().perform()
        for place in places[1:]:
            self.move(*place).perform()
        self.actions().release().perform()

    def keys(self, *keys: str) -> None:
        """Press keys."""
        self.actions().send_keys(*keys).perform()

    def control(self, key: str) -> None:
        """Press a key with Ctrl."""
        from selenium.webdriver.common.keys import Keys

        self.actions().key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def touch(self, kind: str, *places: Sequence[float]) -> None:
        """Put fingers on places of the frame (``"touchStart"``), move them (``"touchMove"``) or lift (``"touchEnd"``)."""
        points = []
        for number, (x, y) in enumerate(places):
            dx, dy, middle_x, middle_y = self.browser.execute_script(ON_SCREEN, x, y)
            points.append({"x": middle_x + dx, "y": middle_y + dy, "id": number})
        self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def tap(self, x: float, y: float) -> None:
        """Touch a place shortly."""
        self.touch("touchStart", (x, y))
        self.touch("touchEnd")


def phone(browser: Any) -> None:
    """Make a browser one of a phone: narrow, and with fingers."""
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})


def scheme(browser: Any, value: str) -> None:
    """Prefer ``"dark"`` or ``"light"`` pages."""
    features = [{"name": "prefers-color-scheme", "value": value}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


FAINT = """
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (text) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (rgb) => rgb.slice(0, 3).reduce((sum, value, i) => {
      const c = value / 255;
      return sum + [0.2126, 0.7152, 0.0722][i] * (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    }, 0);
    const ground = (node) => {
      for (let each = node; each; each = each.parentElement) {
        const found = rgba(getComputedStyle(each).backgroundColor);
        if (found[3] === 255) return found;
      }
      return getComputedStyle(document.documentElement).colorScheme.includes("dark")
        && matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    };
    return [...document.body.querySelectorAll("*")].flatMap((node) => {
      const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
      if (!own || node.disabled || !node.checkVisibility() || node.closest("svg, script, option")) return [];
      const [a, b] = [light(rgba(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      return ratio < 4.5 ? [`${node.tagName} ${node.id} ${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(1)}`] : [];
    });
"""
"""Texts whose contrast with their ground is below 4.5, the least that WCAG 2 (AA) asks for."""


def faint(browser: Any) -> list[str]:
    """Return the texts of a page that are hard to read."""
    found: list[str] = browser.execute_script(FAINT)
    return found


def middle(label: Label, cell: int) -> tuple[float, float]:
    """Return the mean place of a cell's pixels, (x, y) px of the frame."""
    rows, columns = np.nonzero(label == cell)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
