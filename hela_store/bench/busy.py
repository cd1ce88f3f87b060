"""Say what commands still do beside other processes that keep cores busy, against their fair share of the cores."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hela_store.base.cores import usable_cores
from hela_store.base.progress import Progress, silent
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import HelaError
from hela_store.runs.folder import load_run
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""What GNU's OpenMP does where nobody sets a policy: a thread spins so many rounds at a barrier before it sleeps."""
SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""
"""A process that keeps a core busy until its parent is gone."""


@dataclass(frozen=True, kw_only=True)
class BusyBenchConfig:
    """Describe what is timed.

    Attributes
    ----------
    competing : tuple of int
        Numbers of busy processes beside the command, 0 first: what the others are compared with.
    frames : int
        Drawn frames of 512 x 512 px, of which a third each is for training, validation and test.
    steps : int
        Optimiser steps of the fine-tuning.
    rounds : int
        How often each is timed; the median counts. Threads that spin are timed once, in company.
    """

    competing: tuple[int, ...] = (0, 1, 2)
    frames: int = 9
    steps: int = 20
    rounds: int = 2

    def __post_init__(self) -> None:
        if not self.competing or self.competing[0] != 0 or min(self.competing) < 0:
            raise HelaError(f"competing is {self.competing}, expected 0 first, then numbers of busy processes")


@dataclass(frozen=True, kw_only=True)
class BusyRow:
    """One command beside a number of busy processes.

    ``seconds`` is the wall time of the work alone: loading Python's modules takes one core, so that it would seem to
    keep more than its share. ``spinning_seconds`` is that of the same command where its threads spin at barriers, as
    they do without our policy; None where it is alone. ``fair`` is the share of its speed alone that it would keep if
    the scheduler gave each thread the same time, ``kept`` is what it keeps, and ``of_fair`` is ``kept / fair``.
    ``spinning`` is the same for threads that spin, measured against our speed alone.
    """

    command: str
    competing: int
    seconds: float
    spinning_seconds: float | None
    fair: float
    kept: float
    of_fair: float
    spinning: float | None


@dataclass(frozen=True, kw_only=True)
class BusyBench:
    """Results of the benchmark."""

    cores: int
    config: BusyBenchConfig
    rows: tuple[BusyRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def bench_busy(
    config: BusyBenchConfig | None = None,
    *,
    command: Sequence[str],
    environment: Mapping[str, str],
    progress: Progress = silent,
) -> BusyBench:
    """Time embed, finetune and evaluate alone and beside busy processes, each in a process of its own.

    Parameters
    ----------
    config : BusyBenchConfig
    command : sequence of str
        How `hela-store` is started.
    environment : mapping of str to str
        In which it runs; it says nothing of threads.
    """
    config = config or BusyBenchConfig()
    with tempfile.TemporaryDirectory() as parent:
        ready, done = _stores(Path(parent), config.frames)
        jobs = {
            "embed": ["embed"],
            "finetune": ["finetune", "--fresh", "--steps", str(config.steps), "--evaluate-every", str(config.steps)],
            "evaluate": ["evaluate", "--fresh", "--zero-shot", "--split", "all"],
        }
        ways: dict[str, Mapping[str, str]] = {"ours": {}, "spinning": SPINNING}
        asked = [
            each
            for each in itertools.product(range(config.rounds), config.competing, jobs, ways)
            if each[3] == "ours" or (each[0] == 0 and each[1])
        ]
        taken: dict[tuple[str, int, str], list[float]] = {}
        for _, competing, job, way in progress(asked, total=len(asked), what="bench busy"):
            store = _copy(ready) if job == "embed" else done
            with busy(competing):
                said = _run([*command, *jobs[job], "--json", "-s", str(store)], {**environment, **ways[way]})
            taken.setdefault((job, competing, way), []).append(seconds_of_work(said, store))
        return BusyBench(cores=usable_cores(), config=config, rows=tuple(_rows(taken, list(jobs), config.competing)))


def _rows(
    taken: Mapping[tuple[str, int, str], list[float]], jobs: list[str], counts: Sequence[int]
) -> Iterator[BusyRow]:
    cores = usable_cores()
    seconds = {key: statistics.median(found) for key, found in taken.items()}
    for job, count in itertools.product(jobs, counts):
        alone, ours, other = seconds[job, 0, "ours"], seconds[job, count, "ours"], seconds.get((job, count, "spinning"))
        fair = cores / (cores + count)
        yield BusyRow(
            command=job,
            competing=count,
            seconds=ours,
            spinning_seconds=other,
            fair=fair,
            kept=alone / ours,
            of_fair=alone / ours / fair,
            spinning=None if other is None else alone / other / fair,
        )


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy, each with a process that ends with this one."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _stores(parent: Path, frames: int) -> tuple[Path, Path]:
    """Return a store to embed, and an embedded one."""
    third = frames // 3
    blocks = {"train_frames": f"0-{third - 1}", "val_frames": f"{third}-{2 * third - 1}"}
    drawn = SyntheticConfig(frames=frames, shape=(512, 512), cells=8)
    blocks |= {"test_frames": f"{2 * third}-{frames - 1}"}
    new(parent / "ready", NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    embed(
        new(parent / "done", NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks)).store,
        EmbedConfig(),
    )
    return parent / "ready", parent / "done"


def _copy(ready: Path) -> Path:
    path = ready.with_name("copy")
    shutil.rmtree(path, ignore_errors=True)
    return Path(shutil.copytree(ready, path))


def seconds_of_work(said: Mapping[str, Any], store: Path) -> float:
    """Return how long a command worked after it had started.

    Parameters
    ----------
    said : what it printed with ``--json``: the seconds, or the run that it made, whose log has them
    store : folder of its store
    """
    if "run" not in said:
        return float(said["seconds"])
    return float(next(row["seconds"] for row in reversed(load_run(store, said["run"]).log()) if "seconds" in row))


def _run(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise HelaError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
