"""A published store is pulled as it is, whatever happens on the way; what is damaged or hostile is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked
import pytest
from console import environment

from hela_store.errors import AlreadyComplete, StoreError
from hela_store.exchange import pull as pulling
from hela_store.exchange.publish import PublishConfig, publish
from hela_store.exchange.published import HEAD, PublishedFile, head_bytes, manifest_bytes, open_place, read_published
from hela_store.exchange.pull import pull
from hela_store.integrity.verify import VerifyConfig, verify
from hela_store.store.store import Store
from hela_store.training.config import FinetuneConfig
from hela_store.training.finetune import finetune


@pytest.fixture(scope="module")
def published(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the small store is published. Not to be changed."""
    where = tmp_path_factory.mktemp("published") / "cells"
    copy = where.with_name("copy")
    shutil.copytree(embedded, copy)
    first = publish(Store.open(copy), str(where))
    again = publish(Store.open(copy), str(where))
    assert again.sha256 == first.sha256 and again.written == 0 < first.written <= first.files
    return where


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "own"))


def test_another_lab_tunes_on_what_was_pulled(embedded: Path, published: Path, tmp_path: Path) -> None:
    report = pull(str(published), tmp_path / "lab/mine")
    there, store = Store.open(embedded), Store.open(tmp_path / "lab/mine")
    assert report.before == 0 and store.committed() == there.committed()
    for row in store.committed().values():
        assert store.embedding_at(row).tobytes() == there.embedding_at(row).tobytes()
    faults = verify(store, VerifyConfig()).faults
    assert not faults, faults
    assert finetune(store, FinetuneConfig.of(prompt="box", steps=1, cells=2, workers=0, evaluate_every=1)).run
    assert not [path.name for path in (tmp_path / "lab").iterdir() if path.name != "mine"]
    with pytest.raises(AlreadyComplete, match="is a store already"):
        pull(str(published), tmp_path / "lab/mine")
    with pytest.raises(StoreError, match=r"expected 01234567; ask who published it"):
        pull(str(published), tmp_path / "other", expected="01234567")


def test_a_pull_goes_on_where_it_stopped_by_ranges(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "RANGE", 100_000)
    monkeypatch.setattr(pulling, "AHEAD", 2)

    def stop(iterable, *, total, what):
        for number, item in enumerate(iterable):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        pull(str(published), tmp_path / "mine", progress=stop)
    (folder,) = tmp_path.glob(".mine.*.partial")
    assert not (tmp_path / "mine").exists()
    _, files = read_published(open_place(str(published)))
    left = [file for file in files if not (folder / file.path).exists() and file.bytes > 200_000]
    for file, wrong in zip(
        left[:2], (b"", b"x"), strict=True
    ):  # the beginning of one, and a wrong beginning of another
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (published / file.object).read_bytes()[:150_000]
        target.with_name(f".{target.name}.part").write_bytes(data[:-1] + (wrong or data[-1:]))
    before = {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part")}
    assert pull(str(published), tmp_path / "mine").before == len(before) >= 2
    for file in files:
        assert hashlib.sha256((tmp_path / "mine" / file.path).read_bytes()).hexdigest() == file.sha256
    assert not list((tmp_path / "mine").rglob("*.part"))


def test_what_is_damaged_is_refused_with_the_name_of_the_file(own: Path, tmp_path: Path) -> None:
    _, files = read_published(open_place(str(own)))
    chunk = next(file for file in files if "/embedding/c." in file.path)
    data = bytearray((own / chunk.object).read_bytes())
    data[len(data) // 2] ^= 1
    (own / chunk.object).write_bytes(data)
    with pytest.raises(StoreError, match=r"is damaged: its bytes are not those of arrays\.zarr/.*/embedding/c\."):
        pull(str(own), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    head = json.loads((own / HEAD).read_text())
    (own / HEAD).write_text(json.dumps(head | {"files": 1}))
    with pytest.raises(StoreError, match="its values are not those that were written"):
        pull(str(own), tmp_path / "mine")
    (own / HEAD).unlink()
    with pytest.raises(StoreError, match="no store is published at"):
        pull(str(own), tmp_path / "mine")


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "runs/../../out", "catalog.duckdb", ".git/hooks", "runs"])
def test_a_hostile_manifest_writes_nothing(own: Path, tmp_path: Path, path: str) -> None:
    head, files = read_published(open_place(str(own)))
    data = manifest_bytes([*files, PublishedFile(path=path, bytes=files[0].bytes, sha256=files[0].sha256)])
    (own / "manifest-x.parquet").write_bytes(data)
    changed = replace(head, manifest="manifest-x.parquet", sha256=hashlib.sha256(data).hexdigest())
    (own / HEAD).write_bytes(head_bytes(changed))
    with pytest.raises(StoreError, match=r"no file of a store|cannot be the name of a file"):
        pull(str(own), tmp_path / "lab/mine")
    assert not (tmp_path / "lab").exists() and not (tmp_path / "out").exists()


def test_a_damaged_store_is_not_published(store: Store, tmp_path: Path) -> None:
    row = min(store.committed().values())
    chunk = store.arrays.chunk_path(store.key, row)
    other = store.arrays.chunk_path(store.key, row + 1)
    chunk.write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match="verify --repair"):
        publish(Store.open(store.path), str(tmp_path / "out"))
    assert not (tmp_path / "out" / HEAD).exists()
    with pytest.raises(StoreError, match="nothing to publish"):
        publish(store, str(tmp_path / "out"), PublishConfig(keys=("nano-000000000000",)))


KILLED = """
import sys
from hela_store.exchange.{module} import {name}
from hela_store.store.store import Store
from pathlib import Path
def slow(iterable, *, total, what):
    import time
    for item in iterable:
        time.sleep(0.05)
        yield item
{call}
"""


@pytest.mark.parametrize("name", ["publish", "pull"])
def test_killed_at_any_time_it_goes_on(name: str, embedded: Path, published: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(embedded, tmp_path / "source"))
    out = tmp_path / "out"
    calls = {
        "publish": f"publish(Store.open({str(source)!r}), {str(out)!r}, progress=slow)",
        "pull": f"pull({str(published)!r}, Path({str(out)!r}), progress=slow)",
    }
    code = KILLED.format(module=name, name=name, call=calls[name])
    with forked.Popen([sys.executable, "-c", code], env=environment()) as process:
        deadline = time.monotonic() + 120
        while len(written(tmp_path)) < 12 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert len(written(tmp_path)) >= 12 and not (out / HEAD).exists() and not (out / "store.toml").exists()
    if name == "publish":
        report = publish(Store.open(source), str(out))
        assert report.written < report.files and report.sha256 == read_published(open_place(str(published)))[0].sha256
    else:
        assert pull(str(published), out).before >= 1
        assert not verify(Store.open(out), VerifyConfig()).faults


def written(folder: Path) -> list[Path]:
    return [
        *folder.glob("out/objects/*/[!.]*"),
        *(path for path in folder.glob(".out.*.partial/**/*") if path.is_file()),
    ]
