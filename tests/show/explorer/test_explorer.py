"""The explorer as its page uses it: a real process on a real port."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import psutil
import pytest

from hela_store.errors import QueryError, StoreError
from hela_store.images.rle import decode_crop
from hela_store.show.explorer import explore
from hela_store.show.explorer.answer import Page, Running, ask, cards, names
from hela_store.store.store import Store

COMMAND = Path(sys.executable).with_name("hela-store")
ENDLESS = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range * b.range % 7 = 3"


@pytest.fixture(scope="module")
def address(scored: Path) -> Iterator[str]:
    process = forked.Popen(
        [COMMAND, "explore", "-s", scored, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", line)
    yield line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors.strip() == "stopped"


def get(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=120) as reply:
            status, text, kind = reply.status, reply.read().decode(), reply.headers["content-type"]
            assert "default-src 'none'" in reply.headers["content-security-policy"]
    except urllib.error.HTTPError as error:
        with error:
            status, text, kind = error.code, error.read().decode(), error.headers["content-type"]
    return status, json.loads(text) if "json" in kind else text


def test_only_its_own_page_is_answered(address: str) -> None:
    root, token = address.rstrip("/").rsplit("/", 1)
    assert get(address)[0] == 200
    assert get(root + "/")[0] == 403 and get(f"{root}/{token[::-1]}/names")[0] == 403
    assert get(address + "names", origin="http://evil.example")[0] == 403
    assert get(address + "names", origin="null")[0] == 403
    assert get(address + "names", host="evil.example")[0] == 403
    assert get(address + "names", sec_fetch_site="cross-site")[0] == 403
    assert get(address + "static/../server.py")[0] in (403, 404) and get(address + "static/server.py")[0] == 404
    # a form of another page can send text, not JSON
    assert get(address + "query", {"sql": "SELECT 1"}, content_type="text/plain")[0] == 400


def test_it_listens_on_loopback_only(address: str) -> None:
    port = int(address.split(":")[2].split("/")[0])
    every = [each for group in psutil.net_if_addrs().values() for each in group]
    others = {each.address for each in every if each.family == socket.AF_INET}
    for other in others - {"127.0.0.1"}:
        with pytest.raises(OSError):  # noqa: PT011 - refused or timed out, as the system has it
            socket.create_connection((other, port), timeout=2).close()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("DELETE FROM frames", "read-only"),
        ("COPY frames TO 'x.csv'", "read-only"),
        ("ATTACH 'x.db'", "read-only"),
        ("SET memory_limit='1GB'", "read-only"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "no statement"),
        ("FROM read_csv('/etc/passwd')", "closed to files"),
        ("FROM read_text('store.toml')", "closed to files"),
        ("FROM glob('/*')", "closed to files"),
        ("SELEC 1", "syntax"),
        ("SELECT nothing FROM frames", "nothing"),
    ],
)
def test_what_is_no_select_is_refused(address: str, sql: str, why: str) -> None:
    status, found = get(address + "query", {"id": "1", "sql": sql})
    assert status == 400 and why in found["error"] and "\n" not in found["error"]


def test_pages_names_and_cards(address: str, scored: Path) -> None:
    store = Store.open(scored)
    asked = {"id": "2", "sql": "SELECT cell, run, prompt, prompt_seed, iou FROM cell_metrics;", "limit": 7}
    found = get(address + "query", asked | {"order": "iou", "descending": True})[1]
    ious = [row[4] for row in found["rows"]]
    best = store.sql("SELECT iou FROM cell_metrics ORDER BY iou DESC LIMIT 7").fetchall()
    assert ious == [iou for (iou,) in best]
    assert found["total"] == store.sql("SELECT count(*) FROM cell_metrics").fetchall()[0][0]
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
    drawn = get(address + "cards", {"rows": [*rows, {"cell": "no such"}, {"cell": rows[0]["cell"]}]})[1]["cards"]
    assert [card["cell"] for card in drawn[:7]] == [row["cell"] for row in rows] and drawn[7] is None
    assert all(card["prediction"] for card in drawn[:7]) and drawn[8]["truth"] and not drawn[8]["prediction"]
    columns = get(address + "names")[1]["columns"]
    assert any((each["table"], each["column"]) == ("cells", "area") for each in columns)
    assert {each["table"] for each in columns} >= {"frames", "cells", "cell_metrics", "views"}


def test_the_whole_frame_of_a_cell(address: str, scored: Path) -> None:
    store = Store.open(scored)
    cell, run = store.sql("SELECT cell, run FROM cell_metrics ORDER BY iou LIMIT 1").fetchall()[0]
    assert get(address + "frame")[0] == 200
    status, found = get(f"{address}frame-cells?{urllib.parse.urlencode({'cell': cell, 'run': run})}")
    assert status == 200 and found["frame"] == cell.partition("#")[0] and found["cell"] == cell
    label = store.pixels.label(found["frame"])
    drawn = np.zeros_like(label)
    for each in found["cells"]:
        mask, (x, y) = decode_crop(each["counts"], found["height"], found["width"])
        drawn[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = each["label"]
    np.testing.assert_array_equal(drawn, label)
    assert len(found["predictions"]) == len(found["cells"])
    assert {each["name"]: each["iou"] for each in found["cells"]}[cell] is not None
    status, found = get(address + "frame-cells?cell=x")
    assert status == 400 and "no such cell" in found["error"]
    assert get(address + "image?frame=../x")[0] == 400


def test_other_statements_that_only_read(address: str) -> None:
    for sql in ("DESCRIBE cells", "SHOW TABLES", "SUMMARIZE cells", "FROM frames -- all", "VALUES (1), (2)"):
        status, found = get(address + "query", {"id": "3", "sql": sql})
        assert status == 200 and found["rows"], (sql, found)


def test_a_million_rows_page_fluently(scored: Path) -> None:
    store = Store.open(scored)
    sql = "SELECT range AS n, hash(range) % 1000 AS h FROM range(1000000)"
    ask(store, sql, Page(), Running())
    began = time.process_time()
    found = ask(store, sql, Page(offset=999_950, order="h", count=False), Running())
    assert len(found.rows) == 50 and found.rows[-1][1] == 999 and found.total is None
    assert time.process_time() - began < 5


def test_a_long_query_is_stopped(scored: Path) -> None:
    store = Store.open(scored)
    with pytest.raises(QueryError, match="stopped after 1 s; narrow"):
        ask(store, ENDLESS, Page(), Running(), seconds=1)
    running = Running()
    threading.Timer(0.5, running.stop, ["stopped, as asked"]).start()
    with pytest.raises(QueryError, match="as asked"):
        ask(store, ENDLESS, Page(), running)
    early = Running()
    early.stop("before it began")
    with pytest.raises(QueryError, match="before it began"):
        ask(store, "SELECT 1", Page(), early)


def test_wrong_questions(scored: Path) -> None:
    store = Store.open(scored)
    with pytest.raises(QueryError, match="no column 'x'"):
        ask(store, "SELECT 1 AS a", Page(order="x"), Running())
    for page in ({"limit": 0}, {"limit": 10**6}, {"offset": -1}, {"offset": "0"}):
        with pytest.raises(QueryError, match="a page begins"):
            Page(**page)
    with pytest.raises(QueryError, match="up to 60 rows"):
        cards(store, [{"cell": "x"}] * 61)
    assert cards(store, []) == [] and names(store)
    shown = ask(
        store, "SELECT 'nan'::DOUBLE, 2::HUGEINT ** 70, repeat('x', 9999), [1, 2], NULL", Page(), Running()
    ).rows[0]
    assert shown[0] == "nan" and len(shown[2]) == 401 and shown[3:] == ["[1, 2]", None]


def test_a_port_in_use_is_an_error(scored: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StoreError, match="in use; choose another with --port"):
            explore(Store.open(scored), port=taken.getsockname()[1])


def post(url: str, data: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("where", ["query", "stop", "cards"])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"sql": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"id": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deeply"),
        (b'{"sql": "SELECT \'\\ud800\'"}', "lone surrogate"),
        (b'{"rows": [{"cell": "\\udfff"}]}', "lone surrogate"),
        (b'{"\\ud800": 1}', "lone surrogate"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"{", "no JSON"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b'{"id": "' + b"x" * (1 << 21) + b'"}', "more than"),
    ],
    ids=["deep", "deep-tables", "surrogate", "surrogate-row", "surrogate-key", "bytes", "cut", "number", "long"],
)
def test_what_is_no_request_is_answered_with_one_line(address: str, where: str, data: bytes, why: str) -> None:
    status, found = post(address + where, data)
    assert status == 400 and why in found["error"] and "\n" not in found["error"]


def test_numbers_beyond_any_are_refused(address: str) -> None:
    for asked in ({"offset": 10**30}, {"limit": 10**30}, {"offset": 1e400}):
        assert get(address + "query", {"sql": "SELECT 1"} | asked)[0] == 400
    assert get(address + "cards", {"rows": [{"cell": "x", "prompt_seed": 10**30}]})[0] == 400


def test_values_that_python_has_not_are_shown_as_duckdb_shows_them(address: str) -> None:
    status, found = get(address + "query", {"sql": "FROM test_all_types()"})
    assert status == 200
    row = dict(zip(found["columns"], found["rows"][0], strict=True))
    assert row["date"] == "5877642-06-25 (BC)" and row["timestamp"] == "290309-12-22 (BC) 00:00:00"
    assert get(address + "query", {"sql": 'SELECT * FROM "\x1b[31m"'})[1]["error"].isprintable()
