"""Requests to a bucket that fail on their way: the right result, or an error after which the command gives it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import BURSTS, FaultyLine, faulty_line

from hela_store.bench.delay import SlowLine
from hela_store.embedding.embed import embed
from hela_store.errors import HelaError, StoreError
from hela_store.evaluation.config import EvaluateConfig
from hela_store.evaluation.evaluate import evaluate
from hela_store.exchange.ome_zarr import export_ome_zarr
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.runs.folder import load_run
from hela_store.store import bucket
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("client")
TINY = FinetuneConfig.of(steps=2, cells=2, validation_cells=2, workers=0, window=8)
QUICK = EvaluateConfig(split="train", prompts=("box",), prompt_seeds=1, window=8)
Result = Any


def stored(store: Store) -> Result:
    """Return all embeddings and what the ledger says of them."""
    storage, folder = store.arrays.storage, f"embeddings/{store.key}/embedding"
    return {name: storage.read(f"{folder}/{name}") for name in storage.below(folder)}, store.ledger().entries()


def take_back(store: Store, line: FaultyLine) -> None:
    for segment, row in zip(
        sorted(store.ledger().path.iterdir())[-2:], sorted(store.committed().values())[-2:], strict=True
    ):
        segment.unlink()
        store.arrays.storage.remove(store.arrays.chunk_name(store.key, row))


def lose(store: Store, line: FaultyLine) -> None:
    for row in (1, 2):
        store.arrays.storage.remove(store.arrays.chunk_name(store.key, row))


def clear(store: Store, line: FaultyLine) -> None:
    shutil.rmtree(store.path / "runs", ignore_errors=True)
    shutil.rmtree(store.path / "exported", ignore_errors=True)
    (store.path / "catalog.duckdb").unlink(missing_ok=True)


def mended(store: Store) -> Result:
    report = verify(store, VerifyConfig(repair=True, device="cpu"))
    if not report.whole:
        raise StoreError(str(report.faults[0]))


def weights(store: Store) -> Result:
    return load_run(store.path, finetune(store, TINY).run, "finetune").weights.read_bytes()


def rows(store: Store) -> Result:
    found = load_run(store.path, evaluate(store, None, QUICK).run, "evaluate").rows("predictions")
    return [{name: value for name, value in row.items() if name not in ("run", "seconds")} for row in found]


def exported(store: Store) -> Result:
    folder = store.path / "exported"
    folder.mkdir(exist_ok=True)
    export_ome_zarr(store, [], folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


COMMANDS: dict[str, tuple[Callable[[Store, FaultyLine], None], Callable[[Store], Result], bool]] = {
    "embed": (take_back, embed, True),
    "verify --repair": (lose, mended, True),
    "finetune": (clear, weights, False),
    "evaluate": (clear, rows, False),
    "export": (clear, exported, False),
}
"""What comes before a command, the command, and whether its result lies in the bucket."""


@pytest.fixture
def faulty(line: SlowLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bucket, "ATTEMPTS", 5)
    monkeypatch.setattr(bucket, "GIVE_UP_SECONDS", 15.0)
    monkeypatch.setattr(bucket, "ATTEMPT_SECONDS", 2.0)
    with faulty_line(line.server, late=3.0) as there:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{there.port}")
        yield there


def outcome(store: Path, command: str, expected: Result, line: FaultyLine, kind: str, first: int) -> str:
    """Return ``"right"``, or ``"error"`` where the same command then gives the right result; else ``"wrong"``."""
    before, act, in_bucket = COMMANDS[command]
    before(Store.open(store), line)
    line.arm(kind, first)
    told, found = "right", None
    try:
        found = act(Store.open(store))
    except HelaError as error:
        told = "error" if "\n" not in str(error) else "wrong"
    injected = line.injected
    line.arm("", 0)
    if not injected:
        return "not reached"
    if told == "error":
        assert in_bucket or not list((store / "runs").glob("2*"))
        found = act(Store.open(store))
    if in_bucket:
        found = stored(Store.open(store))
    return told if found == expected else "wrong"


def counted(store: Path, line: FaultyLine, commands: list[str], places: tuple[int, ...]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for command in commands:
        _, act, in_bucket = COMMANDS[command]
        clear(Store.open(store), line)
        expected = stored(Store.open(store)) if in_bucket else act(Store.open(store))
        for kind in BURSTS:
            told = [outcome(store, command, expected, line, kind, first) for first in places]
            counts[f"{kind} x {command}"] = Counter(told)
    return counts


@pytest.mark.ci
def test_faults_while_scores_are_made(remote: Store, faulty: FaultyLine):
    counts = counted(remote.path, faulty, ["evaluate"], (6,))
    assert not any(count["wrong"] or count["not reached"] for count in counts.values()), counts
    assert counts["forbidden x evaluate"]["error"] == 1
    assert all(counts[f"{kind} x evaluate"]["right"] == 1 for kind in BURSTS if kind != "forbidden"), counts


@pytest.mark.slow
@pytest.mark.parametrize("command", list(COMMANDS))
def test_faults_at_many_requests_of_every_command(remote: Store, faulty: FaultyLine, command: str):
    counts = counted(remote.path, faulty, [command], (1, 6, 14))
    if "FAULTS_COUNTED" in os.environ:
        with Path(os.environ["FAULTS_COUNTED"]).open("a") as file:
            file.writelines(json.dumps({"case": name, **count}) + "\n" for name, count in counts.items())
    assert not any(count["wrong"] for count in counts.values()), counts
    assert all(count["right"] + count["error"] for count in counts.values()), counts
