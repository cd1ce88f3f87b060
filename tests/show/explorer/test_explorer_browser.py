"""The explorer in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

COMMAND = Path(sys.executable).with_name("hela-store")


@pytest.mark.ci
def test_the_explorer_in_a_browser(scored: Path, chromium: Any) -> None:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with forked.Popen(
        [COMMAND, "explore", "-s", scored, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            chromium.get(process.stdout.readline().strip())
            wait = WebDriverWait(chromium, 120, ignored_exceptions=[StaleElementReferenceException])
            wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")
            box = chromium.find_element(By.ID, "sql")

            def message() -> str:
                return str(chromium.find_element(By.ID, "message").text)

            def ask(sql: str) -> None:
                box.clear()
                box.send_keys(sql + " ")
                box.send_keys(Keys.CONTROL, Keys.ENTER)
                wait.until(
                    lambda b: not message().startswith("running") and not b.find_element(By.ID, "stop").is_enabled()
                )

            # completion of a column's name
            box.clear()
            box.send_keys("SELECT touches_n")
            wait.until(lambda b: "touches_neighbour" in b.find_element(By.ID, "hints").text)
            box.send_keys(Keys.TAB)
            assert box.get_attribute("value") == "SELECT touches_neighbour"

            ask("SELECT cell, run, prompt, prompt_seed, iou FROM cell_metrics")
            cards = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".card path.prediction"))
            assert len(chromium.find_elements(By.CSS_SELECTOR, ".card")) > 20 and cards
            first = chromium.find_element(By.CSS_SELECTOR, ".card").get_attribute("data-cell")
            chromium.execute_script("document.querySelector('.card button').click()")
            wait.until(lambda b: f"'{first}'" in box.get_attribute("value") and "rows" in message())
            wait.until(
                lambda b: {c.get_attribute("data-cell") for c in b.find_elements(By.CSS_SELECTOR, ".card")} == {first}
            )

            ask("SELECT range AS n FROM range(1000)")
            wait.until(lambda b: b.find_element(By.ID, "where").text.endswith("of 1,000"))
            # two clicks at once are two steps, answered or not: upward, then downward
            chromium.execute_script("const by = document.querySelector('#table th button'); by.click(); by.click()")
            wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#table td").text == "999")
            chromium.find_element(By.ID, "next").click()
            wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#table td").text == "899")
            assert chromium.find_element(By.ID, "where").text == "rows 101 to 200 of 1,000"
            assert chromium.get_log("browser") == []

            ask("DROP TABLE frames")
            assert "read-only" in message()
        finally:
            process.terminate()
