"""Kill, starve and damage: whatever happens to ``embed``, the store is as before or as after, and ends the same."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import forked
import pytest
from crashes import DONE, FAULTS, REFUSED

from hela_store.errors import StoreError
from hela_store.store.ledger import view_digest
from hela_store.store.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files through /proc")
SCRIPT = Path(__file__).parents[1] / "helpers/crashes.py"
KILLED = -signal.SIGKILL
FRAMES = 3


class Jobs:
    """Jobs in processes of their own, and what an uninterrupted one makes."""

    def __init__(self, folder: Path, shard: int = 0) -> None:
        self.folder, self.shard = folder, shard
        asked = {"job": "new", "store": str(folder / "base"), "frames": FRAMES, "shard": shard}
        assert self.ask(**asked) == DONE, self.log(folder / "base")
        self.whole = self.copy("whole")
        assert self.ask(job="embed", store=str(self.whole)) == DONE, self.log(self.whole)
        self.points = int(self.whole.with_suffix(".points").read_text())
        self.expected = contents(self.whole)
        self.entries = {name: asdict(entry) for name, entry in Store.open(self.whole).ledger().entries().items()}

    def ask(self, **request: Any) -> int:
        (status,) = self.ask_several(1, **request)
        return status

    def ask_several(self, at_once: int, **request: Any) -> list[int]:
        command = [sys.executable, str(SCRIPT), json.dumps(request)]
        with Path(request["store"]).with_suffix(".log").open("w") as log:
            running = [forked.Popen(command, stdout=log, stderr=subprocess.STDOUT) for _ in range(at_once)]
        return [process.wait() for process in running]

    def copy(self, name: str, of: str = "base") -> Path:
        for old in self.folder.glob(f"{name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        return Path(shutil.copytree(self.folder / of, self.folder / name))

    def log(self, store: Path) -> str:
        return store.with_suffix(".log").read_text()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("crashes"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Return jobs on a store of one whole shard and one that is half full."""
    return Jobs(tmp_path_factory.mktemp("sharded"), shard=2)


def contents(path: Path) -> dict[str, Any]:
    """Return all that must not depend on how a store was made, digested by part."""
    store = Store.open(path)
    entries = store.ledger().entries()
    files = [*(path / "arrays.zarr").rglob("c*"), store.encoder_folder() / "decoder.safetensors"]
    found: dict[str, Any] = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file()
    }
    for name in ("frames_table", "cells_table", "views_table"):
        found[name] = getattr(store, name)().to_pylist()
    counts = store.sql("SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM committed)").fetchall()
    return found | {"entries": {name: asdict(entry) for name, entry in entries.items()}, "catalog": counts}


def assert_before_or_after(jobs: Jobs, path: Path) -> int:
    """Check that all that is committed is right; return how many views are."""
    store = Store.open(path)
    entries = store.ledger().entries()
    for name, entry in entries.items():
        assert asdict(entry) == jobs.entries[name]
        assert view_digest(name, store.arrays.embedding(store.key, entry.row)) == entry.sha256
    assert entries == {} or store.views_table().num_rows == FRAMES
    return len(entries)


def interrupt(jobs: Jobs, mode: str, at: float, *, ahead: bool = False) -> str | None:
    """Run one case; return what went wrong."""
    path = jobs.copy("case")
    try:
        status = jobs.ask(job="embed", store=str(path), mode=mode, at=at, ahead=ahead)
        # a few calls at the very end change only the catalog's lock and the like
        assert status in ((DONE, REFUSED) if mode == "full" else (DONE, KILLED)), jobs.log(path)
        if status == REFUSED:
            assert "no space left" in path.with_suffix(".error").read_text()
        committed = assert_before_or_after(jobs, path)
        assert jobs.ask(job="embed", store=str(path)) == DONE, jobs.log(path)
        assert assert_before_or_after(jobs, path) == FRAMES >= committed
        assert contents(path) == jobs.expected
        assert not list((path / "arrays.zarr").rglob(".*"))
        assert not [file for file in (path / "staged").rglob("*") if file.is_file()]
    except (AssertionError, StoreError) as error:
        return f"{mode} at {at}: {error}"
    return None


def report(cases: int, failures: list[str]) -> None:
    print(f"\n{cases} cases, {len(failures)} failures", *failures, sep="\n")
    assert not failures


@pytest.mark.ci
def test_killed_and_starved_in_short(jobs: Jobs) -> None:
    n = jobs.points
    cases = [("kill", n // 3), ("kill", n * 3 // 4), ("torn", n // 2), ("full", n * 2 // 3), ("time", 0.7)]
    report(len(cases), [text for case in cases if (text := interrupt(jobs, *case))])


@pytest.mark.ci
def test_killed_and_starved_with_several_batches_being_written(jobs: Jobs) -> None:
    n = jobs.points
    cases = [("kill", n * 5 // 6), ("torn", n * 3 // 4), ("full", n * 2 // 3)]
    report(len(cases), [text for case in cases if (text := interrupt(jobs, *case, ahead=True))])


@pytest.mark.ci
def test_shards_killed_and_starved_in_short(sharded: Jobs) -> None:
    n = sharded.points
    cases = [("kill", n // 3), ("kill", n * 3 // 5), ("kill", n * 3 // 4), ("torn", n * 2 // 3), ("full", n * 2 // 3)]
    report(len(cases), [text for case in cases if (text := interrupt(sharded, *case))])


@pytest.mark.ci
@pytest.mark.parametrize("mode", ["", "kill"])
def test_several_writers_at_once(jobs: Jobs, mode: str) -> None:
    path = jobs.copy("case")
    killed = {"mode": "kill", "at": jobs.points // 2} if mode else {}
    statuses = jobs.ask_several(3, job="embed", store=str(path), **killed)
    assert set(statuses) <= {DONE, REFUSED, KILLED if mode else DONE}, jobs.log(path)
    if REFUSED in statuses:
        assert "is being embedded by" in path.with_suffix(".error").read_text()
    assert assert_before_or_after(jobs, path) == FRAMES or mode
    assert jobs.ask(job="embed", store=str(path)) == DONE, jobs.log(path)
    assert contents(path) == jobs.expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["jobs", "sharded"])
def test_killed_and_starved_at_every_call(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: Jobs = request.getfixturevalue(name)
    random.seed(0)
    every = range(1, jobs.points + 1)
    cases: list[tuple[str, float]] = [(mode, at) for mode in ("kill", "torn", "full") for at in every]
    cases += [("time", random.uniform(0, 2.5)) for _ in range(max(40, 200 - jobs.points))]
    failures = [text for case in cases if (text := interrupt(jobs, *case))]
    late: list[tuple[str, float]] = [(mode, at) for mode in ("kill", "torn", "full") for at in every[len(every) // 2 :]]
    failures += [text for case in late if (text := interrupt(jobs, *case, ahead=True))]
    with capsys.disabled():
        report(len(cases) + len(late), failures)


KINDS = {
    "shard": "arrays.zarr/embeddings/*/embedding/c.0.0.0.0",
    "chunk": "arrays.zarr/embeddings/*/embedding/c.1.0.0.0",
    "array": "arrays.zarr/embeddings/*/embedding/zarr.json",
    "coordinate": "arrays.zarr/embeddings/*/view/c.0",
    "group": "arrays.zarr/embeddings/zarr.json",
    "image": "arrays.zarr/frames/*/image/c.1.0.0",
    "label": "arrays.zarr/frames/*/label/c.1.0.0",
    "frames": "arrays.zarr/frames/*/image/zarr.json",
    "ledger": "ledger/*/00000001.jsonl",
    "plan": "plan/*.parquet",
    "record": "encoders/*/encoder.json",
    "decoder": "encoders/*/decoder.safetensors",
    "catalog": "catalog.duckdb",
}


def damage(jobs: Jobs, kind: str, how: str, seed: int) -> str | None:
    path = jobs.copy("case", of="whole")
    (file,) = path.glob(KINDS[kind])
    data = bytearray(file.read_bytes())
    if how == "flip":
        place = random.Random(f"{kind} {seed}").randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
    elif how == "cut":
        data = data[: len(data) // 2]
    if how == "lose":
        file.unlink()
    else:
        file.write_bytes(data)
    try:
        status = jobs.ask(job="verify", store=str(path), repair=False)
        if status == DONE:  # spaces in JSON, paddings of formats; the catalog is an index that verify does not read
            assert how == "flip" or kind in ("catalog", "ledger"), "not found"
        else:
            assert status == FAULTS, f"{status} {jobs.log(path)}"
            again = jobs.ask(job="verify", store=str(path), repair=True)
            assert again == DONE, f"{again} {[p.read_text() for p in path.parent.glob('case.[jel]*')]}"
            found = json.loads(path.with_suffix(".json").read_text())
            assert found["repaired"] and found["encoded"] <= max(1, jobs.shard), found
        assert jobs.ask(job="embed", store=str(path)) == DONE, jobs.log(path)
        assert contents(path) == jobs.expected
    except (AssertionError, StoreError) as error:
        return f"{kind} {how} {seed}: {error}"
    return None


SHORT = [("chunk", "flip"), ("ledger", "flip"), ("image", "flip"), ("label", "lose"), ("plan", "lose")]


@pytest.mark.ci
@pytest.mark.parametrize(("kind", "how"), SHORT)
def test_damaged_in_short(jobs: Jobs, kind: str, how: str) -> None:
    report(1, [text for text in [damage(jobs, kind, how, 0)] if text])


@pytest.mark.parametrize("how", ["flip", "cut", "lose"])
def test_damaged_shards_in_short(sharded: Jobs, how: str) -> None:
    report(1, [text for text in [damage(sharded, "shard", how, 0)] if text])


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["ingest/frames-*.parquet", "ingest/cells-*.parquet", "store.toml"])
def test_damaged_truth_is_refused_and_left_alone(jobs: Jobs, kind: str) -> None:
    path = jobs.copy("case", of="whole")
    (file,) = path.glob(kind)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = file.read_bytes()
    for job in ("verify", "embed"):
        assert jobs.ask(job=job, store=str(path), repair=True) == REFUSED, jobs.log(path)
        assert file.name in path.with_suffix(".error").read_text()
    assert file.read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_damaged_in_each_kind_of_file(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [kind for kind in KINDS if kind != "shard"]
    cases = [(kind, how, 0) for kind in kinds for how in ("cut", "lose")]
    cases += [(kind, "flip", seed) for kind in kinds for seed in range(6)]
    failures = [text for case in cases if (text := damage(jobs, *case))]
    with capsys.disabled():
        report(len(cases), failures)
