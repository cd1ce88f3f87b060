"""Run folders: ids, publishing, resuming, reading back; with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hela_store
from hela_store.errors import RunError
from hela_store.runs.finished import find_finished
from hela_store.runs.folder import (
    RUN_ID,
    is_running,
    latest,
    list_runs,
    load_run,
    new_run,
    partial_runs,
    resume_run,
    run_ids,
)

CONFIG = {
    "encoder": "nano-0123",
    "checkpoint": None,
    "split": "val",
    "prompts": ("box", "point"),
    "seed": 3,
    "lr": 1e-4,
}


def published(store: Path, kind: str = "evaluate", **how: Any) -> str:
    run = new_run(store, kind, CONFIG, **how)
    run.publish()
    return run.id


def test_a_run_is_invisible_until_it_is_published(tmp_path: Path) -> None:
    run = new_run(tmp_path, "finetune", CONFIG, label="Box")
    assert RUN_ID.fullmatch(run.id) and "-finetune-box-" in run.id
    assert run.path == tmp_path / "runs" / f".{run.id}.partial" and (run.path / "config.json").is_file()
    assert run_ids(tmp_path) == [] and partial_runs(tmp_path) == [run.id]

    run.log(step=0, loss=0.5)
    run.log(step=1, loss=float("nan"), at=np.float32(0.25), where=tmp_path)
    table = pa.table({"a": [1, 2]})
    assert run.write_table("prompts", table) == run.path / "prompts.parquet"
    (run.path / "deeper").mkdir()
    (run.path / "deeper" / "file").write_text("x")
    path = run.publish()
    assert path == run.path == tmp_path / "runs" / run.id
    assert run_ids(tmp_path) == [run.id] and partial_runs(tmp_path) == []

    info = load_run(tmp_path, run.id)
    assert info == run.info and info.path == path
    assert pq.read_table(path / "prompts.parquet").equals(table)
    assert info.log() == [{"step": 0, "loss": 0.5}, {"step": 1, "loss": None, "at": 0.25, "where": str(tmp_path)}]


def test_config_json_holds_what_is_needed_to_repeat_the_run(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    parent = published(tmp_path, "finetune")
    info = load_run(tmp_path, published(tmp_path, parent=parent))
    assert (info.kind, info.parent, info.encoder, info.split) == ("evaluate", parent, "nano-0123", "val")
    assert info.checkpoint is None and info.prompts == ("box", "point") and info.seeds == (3,)
    assert before <= info.created <= datetime.now(UTC) and info.created.utcoffset() is not None
    assert info.config == json.loads(json.dumps(CONFIG)) and info.weights.name == "weights.safetensors"
    raw = json.loads((info.path / "config.json").read_text())
    assert raw["format"] == 1 and raw["id"] == info.id and set(raw) > {"version", "torch", "config"}
    torch = sys.modules.get("torch")
    assert raw["torch"] == ("" if torch is None else torch.__version__)


def test_configurations_of_all_kinds_become_json(tmp_path: Path) -> None:
    @dataclass
    class Optimiser:
        lr: float
        betas: tuple[float, ...]

    config: dict[Any, object] = {"optimiser": Optimiser(1e-3, (0.9, float("inf"))), "path": tmp_path}
    config |= {"n": np.int64(3), "w": np.arange(2), 7: None}
    run = new_run(tmp_path, "evaluate", config)
    expected = {"optimiser": {"lr": 1e-3, "betas": [0.9, None]}, "path": str(tmp_path)}
    assert run.info.config == expected | {"n": 3, "w": [0, 1], "7": None}
    run.discard()


@pytest.mark.parametrize(("kind", "config"), [("Fine tune", {}), ("", {}), ("a/b", {}), ("evaluate", {"f": print})])
def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    with pytest.raises(RunError):
        new_run(tmp_path, kind, config)
    assert partial_runs(tmp_path) == []


def test_a_published_run_never_changes(tmp_path: Path) -> None:
    run = new_run(tmp_path, "evaluate", CONFIG)
    run.publish()
    attempts: list[Callable[[], Any]] = [
        lambda: run.log(step=1),
        lambda: run.write_table("prompts", pa.table({"a": [1]})),
        run.publish,
        run.discard,
    ]
    for attempt in attempts:
        with pytest.raises(RunError, match="never changes"):
            attempt()
    run.close()
    assert sorted(os.listdir(run.path)) == ["config.json", "manifest.json"]


def test_a_discarded_run_is_gone(tmp_path: Path) -> None:
    run = new_run(tmp_path, "evaluate", CONFIG)
    run.log(step=1)
    run.discard()
    assert os.listdir(tmp_path / "runs") == []


def test_an_interrupted_run_is_resumed_with_its_log(tmp_path: Path) -> None:
    run = new_run(tmp_path, "finetune", CONFIG)
    run.log(step=1)
    run.close()
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed while writing
    again = resume_run(tmp_path, run.id)
    again.log(step=2)
    again.publish()
    assert load_run(tmp_path, run.id).log() == [{"step": 1}, {"step": 2}]
    with pytest.raises(RunError, match="complete"):
        resume_run(tmp_path, run.id)
    with pytest.raises(RunError, match="no unfinished run"):
        resume_run(tmp_path)


def test_only_one_process_writes_a_run(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from hela_store.runs.folder import new_run
        run = new_run(sys.argv[1], "finetune", {})
        print(run.id, flush=True)
        time.sleep(60)
    """
    with python(code, tmp_path) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        with pytest.raises(RunError, match="another process"):
            resume_run(tmp_path, name)
        process.kill()
        process.wait()
    resume_run(tmp_path, name).publish()
    assert run_ids(tmp_path) == [name]


def test_runs_that_begin_at_once_in_several_processes_have_different_ids(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from hela_store.runs.folder import new_run
        for _ in range(40):
            run = new_run(sys.argv[1], "evaluate", {})
            run.publish()
            print(run.id)
    """
    processes = [python(code, tmp_path) for _ in range(3)]
    names = [name for process in processes for name in process.communicate(timeout=60)[0].split()]
    assert len(names) == len(set(names)) == 120 and run_ids(tmp_path) == sorted(names)


def test_an_id_that_is_taken_is_not_given_again(tmp_path: Path, monkeypatch: Any) -> None:
    draws = iter(["aaaa", "aaaa", "aaaa", "bbbb", "aaaa", "cccc"])
    monkeypatch.setattr("hela_store.runs.folder.secrets.token_hex", lambda _: next(draws))
    monkeypatch.setattr("hela_store.runs.folder.datetime", Noon)
    first = new_run(tmp_path, "evaluate", {})
    second = new_run(tmp_path, "evaluate", {})  # aaaa is partial
    first.publish()
    third = new_run(tmp_path, "evaluate", {})  # aaaa is published
    assert [run.id[-4:] for run in (first, second, third)] == ["aaaa", "bbbb", "cccc"]
    assert partial_runs(tmp_path) == [second.id, third.id]
    second.discard()
    third.discard()


class Noon(datetime):
    """A clock that stands still, so that ids collide."""

    @classmethod
    def now(cls, tz: Any = None) -> Noon:
        return cls(2026, 11, 23, 12, tzinfo=UTC)


def test_runs_are_found_by_id_prefix_or_latest(tmp_path: Path) -> None:
    finetune, first, second = published(tmp_path, "finetune"), published(tmp_path), published(tmp_path)
    assert load_run(tmp_path, finetune).id == finetune
    assert load_run(tmp_path, finetune[:24]).id == finetune
    assert load_run(tmp_path, "latest").id == latest(tmp_path).id == second
    assert load_run(tmp_path, "latest", "finetune").id == latest(tmp_path, "finetune").id == finetune
    assert [run.id for run in list_runs(tmp_path)] == [finetune, first, second]
    assert [run.id for run in list_runs(tmp_path, "finetune")] == [finetune]
    with pytest.raises(RunError, match=f"of kind evaluate, expected finetune.*{finetune}"):
        load_run(tmp_path, first, "finetune")
    newest = published(tmp_path, "finetune")
    assert load_run(tmp_path, "latest", latest_of="evaluate").id == second
    assert load_run(tmp_path, newest, latest_of="evaluate").id == newest
    guessed = published(tmp_path, "baseline")
    assert load_run(tmp_path, "latest", latest_of="evaluate").id == second
    assert load_run(tmp_path, "latest", latest_of=("evaluate", "baseline")).id == guessed
    with pytest.raises(RunError, match=f"no run 'no'; the last: .*{guessed}"):
        load_run(tmp_path, "no", latest_of=("evaluate", "baseline"))
    with pytest.raises(RunError, match="no report run"):
        latest(tmp_path, "report")
    with pytest.raises(RunError, match=r"there is no detection run in .*`hela-store detect run` makes one"):
        latest(tmp_path, "detect")
    with pytest.raises(RunError, match="beginning of"):
        load_run(tmp_path, "20")


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "nothing-like-it", "*"])
def test_an_unknown_run_lists_the_last(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="the store has no run yet"):
        load_run(tmp_path, name)
    run = published(tmp_path)
    with pytest.raises(RunError, match=f"the last: {run}"):
        load_run(tmp_path, name)


def test_an_unknown_run_lists_the_last_that_fit(tmp_path: Path) -> None:
    finetune, _ = published(tmp_path, "finetune"), published(tmp_path)
    with pytest.raises(RunError, match=f"the last: {finetune}$"):
        load_run(tmp_path, "nothing-like-it", "finetune")
    with pytest.raises(RunError, match="the store has no trained detector yet; `hela-store detect train` makes one"):
        load_run(tmp_path, "nothing-like-it", "detector")


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    run = published(tmp_path)
    with pytest.raises(RunError, match=f"did you mean {run}"):
        load_run(tmp_path, run.replace("evaluate", "evalaute"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is missing"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "no 'format'"),
        ('{"kind": "evaluate"}', "no 'format'"),
        ('{"format": 2}', "has format 2, this version reads up to 1; upgrade"),
        ('{"format": 1, "id": "another"}', "a copy"),
        ('{"format": 1, "id": "ID"}', "'kind'"),
        ('{"format": 1, "id": "ID", "kind": 7}', "'kind' (7)"),
        ('{"format": 1, "id": "ID", "kind": "k", "parent": null, "label": "", "created": "noon"}', "noon"),
    ],
)
def test_a_damaged_run_is_named_in_one_line(tmp_path: Path, text: str | None, says: str) -> None:
    run = published(tmp_path)
    config = tmp_path / "runs" / run / "config.json"
    if text is None:
        config.unlink()
    else:
        config.write_text(text.replace("ID", run))
    for read in (lambda: load_run(tmp_path, run), lambda: load_run(tmp_path, "latest"), lambda: list_runs(tmp_path)):
        with pytest.raises(RunError) as caught:
            read()
        assert run in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


def test_other_things_in_runs_are_no_runs(tmp_path: Path) -> None:
    run = published(tmp_path)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / ".DS_Store").write_bytes(b"")
    (tmp_path / "runs" / "20261123-144501-evaluate-abcd").write_text("a file")
    assert run_ids(tmp_path) == [run] and partial_runs(tmp_path) == []


def python(code: str, *words: object) -> subprocess.Popen[str]:
    env = dict(os.environ, PYTHONPATH=str(Path(hela_store.__file__).parents[1]))
    command = [sys.executable, "-c", code, *map(str, words)]
    return forked.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # forking beside torch's threads is what loaders do
def test_a_forked_child_does_not_keep_a_run_locked(tmp_path: Path) -> None:
    """As loader workers of a killed process would, for any kind of run."""
    folder = new_run(tmp_path, "unet", CONFIG)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b".")
        time.sleep(600)
        os._exit(0)
    try:
        assert os.read(read, 1) == b"."
        assert is_running(tmp_path, folder.id), "the parent still has it"
        folder.close()
        assert not is_running(tmp_path, folder.id)
        resume_run(tmp_path, folder.id).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_rows_are_read_back_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    run = new_run(tmp_path, "evaluate", CONFIG)
    path = run.write_table("predictions", pa.table({"cell": ["a", "b"], "iou": [0.25, 0.75]}))
    run.publish()
    info = load_run(tmp_path, run.id)
    assert info.rows("predictions", ["iou"]) == [{"iou": 0.25}, {"iou": 0.75}]
    path = info.path / path.name
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"predictions.parquet changed since it was published; restore it"):
        info.rows("predictions")
    (info.path / "manifest.json").unlink()  # a run of before, of which only the table's own checksums are known
    config = json.loads((info.path / "config.json").read_text())
    (info.path / "config.json").write_text(json.dumps(config | {"manifest": False}))
    old = load_run(tmp_path, run.id)
    with pytest.raises(RunError, match=r"predictions.parquet is damaged: .*; restore it, or move the run's folder out"):
        old.rows("predictions")
    path.unlink()
    for each in (info, old):
        with pytest.raises(RunError, match=r"predictions.parquet is not there"):
            each.rows("predictions")


def test_the_latest_of_the_finished_runs_is_found(tmp_path: Path) -> None:
    first, other = published(tmp_path, label="one"), published(tmp_path, label="two")
    last = published(tmp_path, label="three")
    published(tmp_path, kind="finetune")
    new_run(tmp_path, "evaluate", CONFIG).close()
    found = find_finished(tmp_path, "evaluate", lambda run: run.config["seed"] == 3)
    assert found is not None and found.id == last, "neither an unfinished run nor one of another kind"
    found = find_finished(tmp_path, "evaluate", lambda run: run.id in (first, other))
    assert found is not None and found.id == other
    assert find_finished(tmp_path, "evaluate", lambda run: run.config["seed"] == 4) is None
