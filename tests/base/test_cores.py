"""Threads beside busy processes, and what the system says of its cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hela_store.base import cores
from hela_store.base.cores import useful_threads
from hela_store.bench.busy import busy


@pytest.mark.parametrize(
    ("count", "others", "threads"),
    [
        (1, 0, 1),
        (1, 1, 1),
        (2, 0, 2),
        (2, 1, 2),
        (2, 2, 2),
        (4, 1, 3),
        (16, 0, 16),
        (16, 1, 15),
        (16, 4, 12),
        (16, 16, 16),
    ],
)
def test_no_thread_shares_its_core_unless_that_is_worth_it(count: int, others: int, threads: int) -> None:
    assert useful_threads(count, others) == threads


@pytest.mark.parametrize(("limit", "found"), [("max 100000", None), ("50000 100000", 1), ("junk", None)])
def test_a_container_uses_no_more_cores_than_its_quota(
    limit: str, found: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = cores.usable_cores()
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    assert cores.usable_cores() == (found or every) <= (os.cpu_count() or 1)


@pytest.mark.skipif(not cores.STAT.exists(), reason="this system does not say what its cores do")
def test_busy_cores_are_seen() -> None:
    count = len(os.sched_getaffinity(0))
    with busy(count):
        assert any(cores.busy_cores(0.5) == cores.usable_cores() for _ in range(10))


def test_a_system_that_says_nothing_has_no_busy_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert cores.busy_cores() == 0
