"""Cells like one, in the explorer in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

import hela_store as hs
from hela_store.store.store import Store

COMMAND = Path(sys.executable).with_name("hela-store")


@pytest.mark.ci
def test_a_card_asks_for_cells_like_its_own(store: Store, chromium: Any) -> None:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    opened = hs.Store.open(store.path)
    cell = opened.cells_table()["cell"][0].as_py()
    with forked.Popen(
        [COMMAND, "explore", "-s", store.path, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            chromium.get(process.stdout.readline().strip())
            wait = WebDriverWait(chromium, 120, ignored_exceptions=[StaleElementReferenceException])
            wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")

            def click_like() -> None:
                chromium.execute_script(
                    "const box = document.getElementById('sql'); box.value = arguments[0];"
                    "document.getElementById('form').requestSubmit()",
                    f"SELECT cell, area FROM cells WHERE cell = '{cell}'",
                )
                wait.until(lambda b: shown(b) == [cell])
                buttons = chromium.find_elements(By.CSS_SELECTOR, ".card button")
                assert [button.text for button in buttons] == ["history over all runs", "cells like this one"]
                chromium.execute_script("arguments[0].click()", buttons[1])

            def shown(browser: Any) -> list[str]:
                cards = browser.find_elements(By.CSS_SELECTOR, "#pictures:not([hidden]) .card")
                return [card.get_attribute("data-cell") for card in cards]

            click_like()
            wait.until(lambda b: f"hela-store similar {cell} -s NAME" in b.find_element(By.ID, "message").text)
            expected = [each.cell for each in opened.similar(cell)]
            click_like()
            assert len(expected) > 5
            wait.until(lambda b: len(shown(b)) == len(expected))
            assert shown(chromium) == expected
            assert chromium.get_log("browser") == []
        finally:
            process.terminate()
