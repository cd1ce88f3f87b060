"""The server as others see it: a real process on a real port, and what it refuses to start on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest
from teach_server import ask, serving

from hela_store.base.locks import embed_lock
from hela_store.errors import StoreError
from hela_store.labels.versions import label_at
from hela_store.store.store import Store
from hela_store.teaching.server import FILES, teach

FRAME = "01/t000"


@pytest.fixture(scope="module")
def page(crowded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    path = tmp_path_factory.mktemp("page") / "store"
    shutil.copytree(crowded, path)
    with serving("-s", path) as (address, _):
        yield address, path


def test_only_its_own_page_is_answered(page: tuple[str, Path]) -> None:
    address, path = page
    root, token = address.rstrip("/").rsplit("/", 1)
    erase = {"page": "a", "frame": FRAME, "version": 0, "kind": "erase", "cells": [1]}
    assert ask(address)[0] == 200
    for url in (f"{root}/edit", f"{root}/{token[::-1]}/edit"):
        assert ask(url, erase)[0] == 403
    for name, value in (("origin", "http://evil.example"), ("origin", "null"), ("host", "evil.example")):
        assert ask(address + "edit", erase, **{name: value})[0] == 403
    assert ask(address + "edit", erase, sec_fetch_site="cross-site")[0] == 403
    # a form of another page can send text, not JSON
    assert ask(address + "edit", erase, content_type="text/plain")[0] == 400
    assert ask(address + "edit")[0] == 405
    assert Store.open(path).labels_version == 0


@pytest.mark.parametrize(
    ("where", "body", "why"),
    [
        ("edit", b"{", "no JSON"),
        ("edit", b'{"page": "' + b"x" * (1 << 21) + b'"}', "more than"),
        ("hover", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        ("edit", {"frame": "01/t999", "kind": "erase"}, "no such frame"),
        ("hover", {"frame": "../../etc", "number": 1}, "no such frame"),
        ("next", {"frame": None}, "no such frame"),
        ("accept", {"frame": FRAME, "doubt": "all"}, "has to be a number"),
        ("undo", {}, "nothing to undo"),
    ],
)
def test_what_is_no_question_gets_one_line(page: tuple[str, Path], where: str, body: object, why: str) -> None:
    status, found = ask(page[0] + where, body)
    assert status == 400 and why in found["error"] and "\n" not in found["error"]


def test_every_file_of_the_page_is_there(page: tuple[str, Path]) -> None:
    for name, (package, file, _) in FILES.items():
        assert ask(f"{page[0]}static/{name}")[1] == resources.files(package).joinpath(file).read_bytes()
    assert ask(page[0] + "static/server.py")[0] == 404
    modules = {path.name for path in Path(str(resources.files("hela_store.teaching"))).glob("*.js")}
    assert modules <= FILES.keys()


def test_pictures(page: tuple[str, Path]) -> None:
    for name, most in (("image", 10**6), ("thumbnail", 20_000)):
        status, found = ask(f"{page[0]}{name}?frame={FRAME}")
        assert status == 200 and found[:4] == b"\x89PNG" and len(found) < most
    assert ask(page[0] + "image?frame=x")[0] == 400


@pytest.mark.ci
def test_what_was_answered_as_saved_outlives_a_killed_server(store: Store) -> None:
    with serving("-s", store.path) as (address, process):
        cells = ask(f"{address}cells?frame={FRAME}")[1]["cells"]
        erase = {"page": "a", "frame": FRAME, "version": 0, "kind": "erase", "cells": [cells[0]["cell"]]}
        assert ask(address + "edit", erase)[1]["version"] == 1
        process.kill()
    label = label_at(Store.open(store.path), FRAME)
    assert not (label == cells[0]["cell"]).any()
    # the right to write went with the process
    with serving("-s", store.path) as (address, _):
        assert ask(address + "undo", {"page": "a"})[1]["version"] == 2
    assert (label_at(Store.open(store.path), FRAME) == cells[0]["cell"]).any()


@pytest.mark.ci
def test_a_server_that_is_terminated_cleans_up(store: Store) -> None:
    with serving("-s", store.path) as (_, process):
        process.terminate()
        assert process.wait(60) == 0


def test_stores_that_cannot_be_taught_are_refused(store: Store, tmp_path: Path) -> None:
    with embed_lock(store.path), pytest.raises(StoreError, match="is being embedded by process"):
        teach(store)
    shutil.rmtree(store.path / "ledger")
    with pytest.raises(StoreError, match="nothing is embedded"):
        teach(Store.open(store.path))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user who may not write everywhere, also where tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_store_that_cannot_be_written_is_refused_before_the_page_opens(store: Store) -> None:
    opened: list[str] = []
    for folder in store.path.parents:
        folder.chmod(0o755)
        if folder.name.startswith("pytest-of-"):
            break
    before = sorted(store.path.rglob("*"))
    store.path.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"no permission to write while locking .*store: "):
        teach(store, port=0, started=opened.append)
    store.path.chmod(0o755)
    assert not opened and sorted(store.path.rglob("*")) == before
