"""What several tests share: one small embedded store, made once and copied for whoever changes it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectors import QUICK
from on_device import DEVICES, there

from hela_store.detection.detect import detect
from hela_store.detection.train import train_detector
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig
from stores import made_once

# the suite runs one process a core, and torch's threads would take the cores from each other
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
# what commands keep for their user, such as the counter of test scorings, is kept for this run of the tests alone
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="hela-store-tests-")
# a job started in the background ignores Ctrl-C, and so would every process the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the folder of real frames; skip where it is absent."""
    path = Path(os.environ.get("HELA_REALDATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real frames at {path}; set HELA_REALDATA")
    return path


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return a CPU, then a GPU; skip that, saying so, where there is none."""
    return there(request.param)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 8 synthetic frames of 192x256 px, embedded with nano. Not to be changed."""

    def make(path: Path) -> None:
        drawn = SyntheticConfig(frames=8, shape=(192, 256), cells=10)
        blocks = {"train_frames": "0-3", "val_frames": "5-5", "test_frames": "7-7"}
        new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
        embed(Store.open(path), EmbedConfig())

    return made_once(tmp_path_factory, "embedded", make)


@pytest.fixture
def store(embedded: Path, tmp_path: Path) -> Store:
    """Return a private copy of the small embedded store."""
    shutil.copytree(embedded, tmp_path / "store")
    return Store.open(tmp_path / "store")


WITH_CHUNKS = ("image", "label", "valid", "embedding", "view", "frame", "tile", "variant")


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fail whoever lists a folder with chunks; return the folders that were listed."""
    listed: list[str] = []

    def refuse(name: str) -> None:
        plain = getattr(os, name)

        def listing(path: Any = ".") -> Any:
            listed.append(str(path))
            if "arrays.zarr" in str(path) and Path(path).name in WITH_CHUNKS:
                raise AssertionError(f"{path} is listed")
            return plain(path)

        monkeypatch.setattr(os, name, listing)

    refuse("scandir")
    refuse("listdir")
    return listed


@pytest.fixture(scope="session")
def scored(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small store with a zero-shot evaluation, a fine-tuning of two steps and its evaluation. Not to be changed."""

    def make(path: Path) -> None:
        store = Store.open(shutil.copytree(embedded, path))
        prompts = ("box", "point", "mask")
        evaluate(store, None, EvaluateConfig(prompts=prompts, prompt_seeds=2))
        tuned = finetune(store, FinetuneConfig.of(prompt="box", steps=2, cells=2, workers=0, evaluate_every=1))
        evaluate(store, tuned.run, EvaluateConfig(prompts=prompts, prompt_seeds=2))

    return made_once(tmp_path_factory, "scored", make)


@pytest.fixture(scope="session")
def detected(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a run of kind ``detector`` and one of kind ``detect`` over all frames. Not to be changed."""

    def make(path: Path) -> None:
        store = Store.open(shutil.copytree(embedded, path))
        train_detector(store, QUICK)
        detect(store, split="all", device="cpu")

    return made_once(tmp_path_factory, "detected", make)


@pytest.fixture
def detector_store(detected: Path, tmp_path: Path) -> Store:
    """Return a private copy of it."""
    shutil.copytree(detected, tmp_path / "detected")
    return Store.open(tmp_path / "detected")


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Any]:
    """Return a headless Chromium, driven by Selenium; skip where there is none."""
    paths = (Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver"))
    if not all(path.exists() for path in paths):
        pytest.skip("no /usr/bin/chromium and chromedriver; install chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    switches = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync window-size=1200,900"
    for switch in switches.split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(str(paths[1]))) as driver:
        yield driver
        driver.get("about:blank")  # the page is told that it is closed, as it is not where the browser ends
