"""What errors become, and how commands end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import click
import forked
import psutil
import pytest
from click.testing import CliRunner
from console import COMMAND, Run, assert_gone, environment
from hela_store_cli.main import Commands, main

from hela_store.errors import StoreError
from hela_store.store.store import Store


def group_that_raises(error: BaseException) -> Commands:
    @click.group(cls=Commands)
    @click.option("--traceback", is_flag=True)
    def group(traceback: bool) -> None:
        pass

    @group.command()
    def embed() -> None:
        raise error

    @group.command()
    def sql() -> None:
        raise error

    return group


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoreError("two\nlines"), "error: two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "error: No space left on device: /x"),
        (MemoryError(), "error: out of memory; close other programs, or give smaller --tile, --batch or --cells"),
        (KeyError("x"), "error: KeyError: 'x' (a bug in hela-store; `hela-store --traceback ...` shows where)"),
    ],
)
def test_every_error_is_one_line_and_exit_code_1(error: Exception, line: str) -> None:
    done = CliRunner().invoke(group_that_raises(error), ["embed"])
    assert (done.exit_code, done.stderr, done.stdout) == (1, line + "\n", "")
    asked = CliRunner().invoke(group_that_raises(error), ["--traceback", "embed"])
    assert asked.exception is error


@pytest.mark.parametrize(("command", "words"), [("embed", "resumes where it stopped"), ("sql", "nothing is kept")])
def test_ctrl_c_is_exit_code_130(command: str, words: str) -> None:
    done = CliRunner().invoke(group_that_raises(KeyboardInterrupt()), [command])
    assert done.exit_code == 130
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert "there is no command 'embedd'; did you mean embed?" in run("embedd", code=2).stderr
    assert "Missing option '--dataset'" in run("new", "x", code=2).stderr


def test_every_command_has_help(start: Run) -> None:
    assert "Fine-tune SAM on microscopy frames" in start("--help").stdout
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None and command.name == name
        assert command.get_short_help_str(1000).rstrip("."), name
    assert start("--version").stdout.startswith("hela-store, version ")


def test_no_store_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    for command in ("info", "embed", "finetune", "evaluate"):
        assert run(command, code=1).stderr.count("\n") == 1
    (tmp_path / "stores/bad").mkdir(parents=True)
    (tmp_path / "stores/bad/store.toml").write_text("format = \n")
    assert "store.toml is damaged" in run("info", code=1).stderr
    (tmp_path / "stores/bad/store.toml").write_text("format = 99\n")
    assert "upgrade hela-store" in run("info", HELA_STORE="bad", code=1).stderr


def test_a_closed_pipe_is_no_error(embedded: Path) -> None:
    query = "SELECT * FROM range(200000)"
    with forked.Popen(
        [COMMAND, "sql", "-s", embedded, query, "--csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.ci
def test_ctrl_c_in_embed_stops_cleanly_and_embed_goes_on(run: Run, store: Store) -> None:
    ledger = store.path / "ledger"
    shutil.rmtree(ledger)
    with forked.Popen(
        [COMMAND, "embed"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=store.path, env=environment()
    ) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 300
        while not list(ledger.glob("*/*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed = process.stderr.read().decode()
    assert process.returncode == 130, printed
    assert "stopped; the same command resumes where it stopped" in printed and "Traceback" not in printed
    done = sum(len(path.read_text().splitlines()) for path in ledger.glob("*/*.jsonl"))
    assert 1 <= done < 8
    again = run("embed", "--limit", 1, folder=store.path)
    assert f"{done} done before, 1 now" in again.stdout


# in short: training/test_finetune.py, which stops inside a step and a validation
@pytest.mark.slow
def test_ctrl_c_in_finetune_keeps_the_run_and_the_next_one_goes_on_with_it(run: Run, store: Store) -> None:
    asked = "finetune --steps 12 --evaluate-every 4 --cells 2 --workers 0 --window 16 --validation-cells 4".split()
    with forked.Popen(
        [COMMAND, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=store.path, env=environment()
    ) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 300
        while not list(store.path.glob("runs/.*.partial/log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        printed = process.stderr.read().decode()
    assert process.returncode == 130, printed
    assert "stopped; the same command resumes where it stopped" in printed and "Traceback" not in printed
    (partial,) = store.path.glob("runs/.*.partial")
    again = json.loads(run(*asked, "--json", folder=store.path).stdout)
    assert again["run"] == partial.name.removeprefix(".").removesuffix(".partial")
    assert not list(store.path.glob("runs/.*.partial"))


# in short: training/test_loading.py
@pytest.mark.slow
def test_ctrl_c_reaches_loader_processes_as_well_and_nobody_complains_or_stays(store: Store) -> None:
    asked = ["finetune", "--steps", "500", "--cells", "2", "--workers", "2", "--window", "16"]
    # as a terminal does: to every process of the group
    with forked.Popen(
        [COMMAND, *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=store.path,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 300
        while len(loaders(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        printed = process.stderr.read().decode()
    assert process.returncode == 130, printed
    assert "stopped; the same command resumes where it stopped" in printed and "Traceback" not in printed
    assert_gone(process.pid)


def loaders(pid: int) -> list[psutil.Process]:
    """Return the processes that a process forked; none where it or a child ends meanwhile."""
    with suppress(psutil.NoSuchProcess):  # a zombie, too
        process = psutil.Process(pid)
        return [child for child in process.children() if child.cmdline() == process.cmdline()]
    return []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir(mode=0o500)
    assert "no permission to write" in run("new", "x", "--dataset", "synthetic", code=1).stderr
