"""Help is printed without the libraries that the work needs."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from console import environment
from hela_store_cli.main import COMMANDS, main

HEAVY = {"numpy", "pyarrow", "torch", "duckdb", "zarr", "dask", "pandas", "scipy", "tqdm", "pooch"}
ASK = """
import json, sys
from hela_store_cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main([*words, "--help"])
    except SystemExit as done:
        assert done.code == 0
print(json.dumps(sorted(sys.modules)))
"""


def groups(command: click.Command, *words: str) -> list[tuple[str, ...]]:
    """Return the words of a command and of all below it."""
    found = [words]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found += groups(below, *words, name)
    return found


def loaded(asked: list[tuple[str, ...]]) -> set[str]:
    """Return the modules that a process has after printing these helps."""
    command = [sys.executable, "-c", ASK, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(asked)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_it_alone_and_nothing_heavy(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    modules = loaded(groups(command, name))
    assert not HEAVY & modules
    # study's options come from the module of sweep
    others = {f"hela_store_cli.{other}" for other in COMMANDS if other not in (name, "sweep")}
    assert not others & modules


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded([()])
