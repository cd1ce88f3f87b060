"""What a terminal would obey is shown and not obeyed, wherever it comes from; a pseudo-terminal stands for a real one."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import shutil
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
from console import COMMAND, environment

EVIL = "SELECT chr(27) || ']0;title' || chr(7) || chr(27) || '[2J' || chr(155) || '31m' || chr(8238) || chr(13) AS \"a\x1b[31m\""
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\x7f")


def on_terminal(*words: object, start: Callable[..., Any] = forked.Popen) -> tuple[int, str]:
    """Run the command with a terminal as output and errors; return its exit code and what came out."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    process = start([COMMAND, *map(str, words)], stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(timeout=120)
    reader.join(timeout=10)
    os.close(ours)
    return code, b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_no_value_or_column_is_obeyed(scored: Path, form: tuple[str, ...]) -> None:
    code, text = on_terminal("sql", "-s", scored, EVIL, *form)
    assert code == 0 and not any(each in text for each in (*OBEYED, "\r"))
    if form == ("--json",):
        (row,) = json.loads(text)
        assert row == {"a\x1b[31m": "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r"}
    else:
        assert "\\x1b]0;title\\x07" in text and "\\x9b31m" in text and "a\\x1b[31m" in text


def test_results_in_a_pipe_are_data(scored: Path) -> None:
    command = [str(COMMAND), "sql", "-s", str(scored), EVIL.replace(" || chr(13)", ""), "--csv"]
    done = forked.run(command, capture_output=True, env=environment(), check=True)
    rows = list(csv.reader(io.StringIO(done.stdout.decode(), newline="")))
    assert rows == [["a\x1b[31m"], ["\x1b]0;title\x07\x1b[2J\x9b31m\u202e"]]


@pytest.mark.parametrize("terminal", [True, False])
def test_errors_show_what_they_quote(scored: Path, tmp_path: Path, terminal: bool) -> None:
    name = "no\x1b[2Jstore\x9b"
    for words in (
        ("sql", "-s", scored, f'FROM "{name}"'),
        ("info", "-s", tmp_path / name),
        ("segment", name, f"--{name}"),
    ):
        if terminal:
            code, text = on_terminal(*words)
        else:
            done = forked.run([COMMAND, *map(str, words)], capture_output=True, env=environment(), check=False)
            code, text = done.returncode, (done.stdout + done.stderr).decode()
        assert code in (1, 2) and "\\x1b[2J" in text and not any(each in text for each in OBEYED)


def test_names_that_are_no_text_end_in_one_line(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/st\xffore"
    done = subprocess.run(
        [os.fsencode(COMMAND), b"info", b"-s", name], capture_output=True, env=environment(), check=False
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1


def test_a_progress_bar_still_moves(scored: Path, tmp_path: Path) -> None:
    run = next(path.name for path in sorted((scored / "runs").iterdir()) if "-evaluate-" in path.name)
    shutil.copytree(scored, tmp_path / "store")
    code, text = on_terminal(
        "export", "coco", "-s", tmp_path / "store", run, "--prompt", "box", "--out", tmp_path / "x.json"
    )
    assert code == 0 and "\r" in text and "\\r" not in text


@pytest.mark.ci
def test_a_terminal_says_that_a_slow_command_has_started_until_it_prints(scored: Path) -> None:
    code, text = on_terminal("evaluate", "-s", scored, "--run", "x", start=subprocess.Popen)
    assert code == 1 and text.startswith("starting ...\r            \rerror: no run 'x'")
    code, text = on_terminal("embed", "-s", scored, "--dry-run", "--json", start=subprocess.Popen)
    assert code == 0 and json.loads(text.rpartition("\r")[2])["planned"] == 8


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_every_type_of_duckdb_is_printed_as_duckdb_prints_it(scored: Path, form: tuple[str, ...]) -> None:
    command = [str(COMMAND), "sql", "-s", str(scored), "FROM test_all_types()", *form]
    done = forked.run(command, capture_output=True, env=environment(), text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert "5877642-06-25 (BC)" in done.stdout and "294247-01-10 04:00:54.775806" in done.stdout
    assert "83 years 3 months 999 days 00:16:39.999999" in done.stdout
    if form == ("--json",):
        rows = json.loads(done.stdout)
        assert rows[0]["hugeint"] == -(2**127) and rows[1]["struct"] == {"a": 42, "b": "🦆🦆🦆🦆🦆🦆"}
        assert rows[1]["date_array"][:3] == ["1970-01-01", "infinity", "-infinity"]
