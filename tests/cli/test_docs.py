"""README and .ci/run say what is so."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import duckdb
import pytest
from hela_store_cli.main import main

from hela_store.store.store import Store

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SHELL = [text.strip() for kind, text in BLOCKS if kind == "bash"]


def leaves(group: click.Group, above: str) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found |= (
            leaves(command, f"{above} {name}") if isinstance(command, click.Group) else {f"{above} {name}": command}
        )
    return found


COMMANDS = leaves(main, "hela-store")


def test_two_commands_do_all_the_set_up() -> None:
    assert "\n" not in SHELL[0] and SHELL[0].endswith("hela-store demo")
    assert "\n" not in SHELL[1] and SHELL[1].endswith("pytest")


def test_ci_runs_the_second_command_verbatim() -> None:
    script = ROOT / ".ci/run"
    assert SHELL[1] in script.read_text().splitlines()
    assert os.access(script, os.X_OK)


MENTIONED = [*re.findall(r"hela-store [^#\n]*", "\n".join(SHELL)), *re.findall(r"`(hela-store [^`]*)`", README)]


@pytest.mark.parametrize("line", MENTIONED)
def test_the_readme_names_only_options_there_are(line: str) -> None:
    name = next((name for name in sorted(COMMANDS, key=len, reverse=True) if line.startswith(name)), None)
    assert name is not None, line
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= known


PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SMALLER = {
    "stores/fluo": "{store}",
    "t012": "t002",
    "steps=500": "steps=2, workers=0",
    "count=500": "count=2",
    "num_workers=1": "num_workers=0",
}


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_the_readme_runs(store: Store, code: str) -> None:
    for there, here in SMALLER.items():
        code = code.replace(there, here.format(store=store.path))
    exec(code, {})


def test_the_python_of_the_readme_is_made_small() -> None:
    assert all(there in "".join(PYTHON) for there in SMALLER)


def test_the_format_page_names_every_column() -> None:
    page = (ROOT / "stores/README.md").read_text()
    con = duckdb.connect()
    con.execute((ROOT / "hela_store/catalog/schema.sql").read_text())
    internal = ("indexed", "catalog_schema", "table_sums", "views")
    for table, column in con.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    ).fetchall():
        if table not in internal:
            section = page.split(f"### `{table}`")[1].split("### ")[0]
            assert f"| `{column}` |" in section, f"{table}.{column}"


def test_no_place_or_host_of_a_developer_is_named() -> None:
    for path in (
        ROOT / "README.md",
        ROOT / "cli/README.md",
        ROOT / "CHANGELOG.md",
        ROOT / ".ci/run",
        ROOT / "pyproject.toml",
    ):
        text = path.read_text().replace("--index-url https://download.pytorch.org/whl/cpu", "")
        assert not re.search(r"/(work|home|root|opt)/|index-url|pypi\.", text), path
