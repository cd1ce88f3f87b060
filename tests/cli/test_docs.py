"""The pages and .ci/run say what is so."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import click
import duckdb
import pytest
import tifffile
from pages import COMMANDS, EXAMPLES, PAGES, ROOT, TEXTS

from hela_store.store.store import Store

README = TEXTS[Path("README.md")]
BLOCKS = [found for text in TEXTS.values() for found in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)]
SHELL = [text.strip() for kind, text in re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL) if kind == "bash"]


def test_two_commands_do_all_the_set_up() -> None:
    assert "\n" not in SHELL[0] and SHELL[0].endswith("hela-store demo")
    assert "\n" not in SHELL[-1] and SHELL[-1].endswith("pytest")


def test_ci_runs_the_last_command_verbatim() -> None:
    script = ROOT / ".ci/run"
    assert SHELL[-1] in script.read_text().splitlines()
    assert os.access(script, os.X_OK)


def mentioned(text: str) -> list[str]:
    """Return the commands of a page, in blocks and in the text."""
    blocks = "\n".join(block for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if kind != "text")
    spoken = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [
        *re.findall(r"^(?:.*&& )?(hela-store [^#&\n]*)", blocks, re.M),
        *re.findall(r"`(hela-store [^`]*)`", spoken),
    ]


# the history names commands as they were
NOW = [text for page, text in TEXTS.items() if page.name != "HISTORY.md"]
MENTIONED = sorted({line.strip() for text in NOW for line in mentioned(text)})


@pytest.mark.parametrize("line", MENTIONED)
def test_the_pages_name_only_commands_and_options_there_are(line: str) -> None:
    name = next((name for name in sorted(COMMANDS, key=len, reverse=True) if line.startswith(name)), None)
    if name is None:
        assert any(command.startswith(line.split(" -")[0]) for command in COMMANDS), line
        return
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", line)) <= known | {"--help"}


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_an_example_of_the_help_is_a_whole_command_there_is(name: str, line: str) -> None:
    assert line.split()[: len(name.split())] == name.split()
    command = COMMANDS[name]
    # click keeps the help option that a command was first asked for
    context = click.Context(command, help_option_names=["-h", "--help"])
    found, rest, _ = command.make_parser(context).parse_args(shlex.split(line)[len(name.split()) :])
    given = {key: value for key, value in found.items() if isinstance(value, str | list | tuple | int)}
    assert not rest
    for parameter in command.params:
        if isinstance(parameter.type, click.Path) or parameter.name not in given:
            assert parameter.name in given or not parameter.required
        else:
            parameter.type_cast_value(context, given[parameter.name])


PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SMALLER = {
    "stores/fluo": "{store}",
    "stores/cells": "{store}",
    "images/t012": "01/t002",
    "new_frames/t000.tif": "{frame}",
    "t012": "t002",
    "steps=500": "steps=2, workers=0",
    "count=500": "count=2",
    "num_workers=1": "num_workers=0",
}


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_the_pages_runs(store: Store, tmp_path: Path, code: str) -> None:
    frame = tmp_path / "t000.tif"
    tifffile.imwrite(frame, store.frames("01")["image"][0].values)
    for there, here in SMALLER.items():
        code = code.replace(there, here.format(store=store.path, frame=frame))
    exec(code, {})


def test_the_python_of_the_pages_is_made_small() -> None:
    assert all(there in "".join(PYTHON) for there in SMALLER)


@pytest.mark.parametrize("query", [text for kind, text in BLOCKS if kind == "sql"])
def test_the_queries_of_the_pages_run(scored: Path, query: str) -> None:
    assert Store.open(scored).sql(query).fetchall() is not None


def anchors(text: str) -> set[str]:
    """Return what a link into a page can name: its headings, as GitHub spells them, and its own anchors."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    spelt = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return spelt | set(re.findall(r'id="([\w-]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", TEXTS[page], flags=re.DOTALL)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_first_page_is_short_and_a_guide_is_never_lost() -> None:
    assert len(README.splitlines()) <= 150
    guides = {page for page in PAGES if page.parts[0] == "notebooks" and page.name != "README.md"}
    assert all(f"({page.name})" in TEXTS[Path("notebooks/README.md")] for page in guides)


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
    others = (Path("CHANGELOG.md"), Path(".ci/run"), Path("pyproject.toml"))
    for path in (ROOT / page for page in (*PAGES, *others)):
        text = path.read_text().replace("--index-url https://download.pytorch.org/whl/cpu", "")
        assert not re.search(r"/(work|home|root|opt)/|index-url|pypi\.", text), path
