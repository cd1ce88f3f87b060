"""Count the cores that this process may use, and those that are busy, and choose how many threads are of use."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

STAT = Path("/proc/stat")
TOPOLOGY = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
BUSY = 0.5
"""Share of the time from which a core counts as busy with other processes."""
SECONDS = 0.1
"""How long :func:`busy_cores` watches."""


def usable_cores() -> int:
    """Return the number of physical cores that this process may use.

    Neither cores outside the process's affinity count, nor the second thread of a core, nor what the processor time
    quota of a container forbids.
    """
    return max(1, math.ceil(min(len(_cores()), _quota())))


def busy_cores(seconds: float = SECONDS) -> int:
    """Return how many of the cores that this process may use are busy with other work just now.

    Parameters
    ----------
    seconds : float
        How long to watch. Where the system does not say what its cores do, no core counts as busy.
    """
    before = _idle()
    start = time.monotonic()
    time.sleep(seconds if before else 0)
    passed, after = time.monotonic() - start, _idle()
    ticks = passed * os.sysconf("SC_CLK_TCK") if before else 1
    return sum(
        any(cpu in before and cpu in after and 1 - (after[cpu] - before[cpu]) / ticks > BUSY for cpu in core)
        for core in _cores()
    )


def useful_threads(cores: int, busy: int) -> int:
    """Return with how many threads an operation ends soonest, on cores some of which others keep busy.

    An operation is split evenly and waits for its slowest thread. With no more threads than free cores each has a core
    of its own. Beyond that at least one shares its core, which halves the speed of all: worth it only where free cores
    are few, because the scheduler gives every thread the same share. Beside one busy process two cores are
    used by two threads, and sixteen by fifteen.

    Parameters
    ----------
    cores : int
        Cores that may be used.
    busy : int
        How many of these others keep busy, with one thread each.
    """
    return max(range(1, cores + 1), key=lambda count: (count / math.ceil((count + busy) / cores), count))


def _cores() -> set[frozenset[int]]:
    """Return the logical processors that may be used, those of one physical core together."""
    usable = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    return {frozenset(_siblings(cpu) & usable) for cpu in usable}


def _siblings(cpu: int) -> set[int]:
    try:
        text = (TOPOLOGY / f"cpu{cpu}" / "topology/thread_siblings_list").read_text()
        ranges = [part.split("-") for part in text.strip().split(",")]
        return {cpu, *(n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1))}
    except (OSError, ValueError):
        return {cpu}


def _quota() -> float:
    """Return how many cores' time a container's control group grants (version 2, then 1); infinite without a limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return math.inf
    try:
        granted = float(quota) / float(period)  # "max" where there is no limit, or -1
    except (ValueError, ZeroDivisionError):
        return math.inf
    return granted if granted > 0 else math.inf


def _idle() -> dict[int, int]:
    """Return how long each logical processor was idle or waited for a disk, in ticks since the start."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
    return {int(row[0][3:]): int(row[4]) + int(row[5]) for row in rows}
