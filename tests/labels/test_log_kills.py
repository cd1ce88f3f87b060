"""A process that is killed at each write to the label log loses no version that it was given, and leaves no half one."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import forked
import pytest

from hela_store.labels.log import LabelLog
from hela_store.labels.versions import label_at
from hela_store.store.store import Store

SCRIPT = Path(__file__).parents[1] / "helpers" / "label_crashes.py"


def ask(store: Path, mode: str = "", at: int = 0) -> int:
    return forked.run(
        [sys.executable, str(SCRIPT), json.dumps({"store": str(store), "mode": mode, "at": at})]
    ).returncode


def check(ingested: Path, place: Path, mode: str, at: int, whole: list[tuple[int, ...]]) -> None:
    """Kill at a point, look at what is left, and let the same work go on."""
    store = place / f"{mode}-{at}"
    shutil.copytree(ingested, store)
    assert ask(store, mode, at) == -signal.SIGKILL
    told = store.with_suffix(".told").read_text().split()
    log = LabelLog(Store.open(store))
    assert log.version in (len(told), len(told) + 1), "a version that was given is lost, or one came from nowhere"
    assert len(log.events()) == log.version
    frame = next(iter(log.store.frame_records()))
    label_at(log.store, frame)  # compared with its sum
    assert ask(store) == 0
    assert [event.cells for event in LabelLog(Store.open(store)).events()] == whole
    shutil.rmtree(store)


@pytest.mark.ci
def test_a_kill_at_any_write_loses_nothing(ingested: Path, tmp_path: Path) -> None:
    shutil.copytree(ingested, tmp_path / "whole")
    assert ask(tmp_path / "whole") == 0
    points = int((tmp_path / "whole.points").read_text())
    whole = [event.cells for event in LabelLog(Store.open(tmp_path / "whole")).events()]
    assert points > 10 and len(whole) > 1
    for at in range(1, points + 1, 4):
        check(ingested, tmp_path, "kill", at, whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "torn"])
def test_a_kill_at_every_write_loses_nothing(ingested: Path, tmp_path: Path, mode: str) -> None:
    shutil.copytree(ingested, tmp_path / "whole")
    assert ask(tmp_path / "whole") == 0
    points = int((tmp_path / "whole.points").read_text())
    whole = [event.cells for event in LabelLog(Store.open(tmp_path / "whole")).events()]
    for at in range(1, points - 2 if mode == "torn" else points + 1):
        check(ingested, tmp_path, mode, at, whole)
