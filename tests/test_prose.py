"""What people read is written in whole sentences: pages, help texts and the first lines of docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hela_store_cli.help import Command
from hela_store_cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "notebooks/*.md", "stores/*.md", "hela_store/*.md", "tests/benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if path.name not in ("CHANGELOG.md", "HISTORY.md")
)
OPENINGS = re.compile(
    r"(Of|So many as|Whether what|What of|What a|What is|What there|What was|What it|What one|As many|As of|That which|"
    r"Where there is none|Those|Too)\b(?![^.]*\?)"
)
"""Openings that make fragments; a question may begin so."""
CLAUSES = re.compile(r"(What|How|Why|Which|Where)\b")
"""Openings of summaries that are clauses without a verb of their own."""
STALE = re.compile(
    r"measuring rule \d|\brule [0-9]+\b|\b(goes|go) on from there\b|\banew\b|\bmade anew\b", re.IGNORECASE
)
SUMMARY_PACKAGES = sorted({path.parent.name for path in ROOT.glob("hela_store/*/__init__.py")})


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's running text: neither code, tables, headings nor comments."""
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", text, flags=re.DOTALL)
    lines = ["" if line.startswith(("|", "#", "!")) else line.lstrip(" -*0123456789.") for line in text.splitlines()]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    return [s for part in paragraphs for s in re.split(r"(?<=[.:;?!])\s+(?=[A-Z])", " ".join(part.split())) if s]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_are_written_in_sentences(page: Path) -> None:
    text = (ROOT / page).read_text()
    assert not STALE.search(text), STALE.findall(text)
    assert not [sentence for sentence in sentences(text) if OPENINGS.match(sentence)]


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(words), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *words, name)


COMMANDS = dict(commands(main, "hela-store"))
TEXTS = [(name, "", command.help or "") for name, command in COMMANDS.items()] + [
    (name, option.opts[0], option.help or "")
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize(("command", "option", "text"), TEXTS, ids=lambda part: str(part)[:40])
def test_help_is_a_whole_sentence(command: str, option: str, text: str) -> None:
    told = re.sub(r"\s*\[default: .*\]$", "", " ".join(text.split()))
    assert re.match(r"[A-Z]", told) and told.endswith(".") and len(told.split()) >= 3, told
    assert not OPENINGS.match(told), told


def help_of(name: str) -> str:
    """Return the help of a command as a terminal of 80 columns shows it."""
    # click keeps the help option that a command was first asked for
    how: Any = {"info_name": name, "terminal_width": 80, "help_option_names": ["-h", "--help"]}
    return COMMANDS[name].get_help(click.Context(COMMANDS[name], **how))


ARGUMENTS = [
    (name, argument.name or "", command.positional.get(argument.name or "", ""))
    for name, command in COMMANDS.items()
    if isinstance(command, Command)
    for argument in command.params
    if isinstance(argument, click.Argument)
]


@pytest.mark.parametrize(("command", "argument", "text"), ARGUMENTS)
def test_every_argument_is_explained(command: str, argument: str, text: str) -> None:
    assert re.match(r"[A-Z]", text) and text.endswith("."), f"say in `positional` what {argument} is"
    assert text in " ".join(help_of(command).split())


GROUPS = {name: command for name, command in COMMANDS.items() if isinstance(command, click.Group)}


@pytest.mark.parametrize("name", GROUPS)
def test_a_list_of_commands_cuts_no_sentence_at_80_columns(name: str) -> None:
    shown = help_of(name).partition("\n")[2]
    assert not re.search(r"\.\.\.$", shown, re.MULTILINE), shown


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if isinstance(command, Command)])
def test_no_line_of_a_help_is_wider_than_80_columns(name: str) -> None:
    assert not [line for line in help_of(name).splitlines() if len(line) > 80]


LEAVES = {name: command for name, command in COMMANDS.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", LEAVES)
def test_help_ends_with_examples_and_long_help_has_headings(name: str) -> None:
    command = LEAVES[name]
    assert isinstance(command, Command) and 1 <= len(command.examples) <= 2
    for line in command.examples:
        assert line.startswith(name) and len(line) <= 76, line
    named = [each for group in command.groups.values() for each in group]
    assert len(set(named)) == len(named) and set(named) <= {parameter.name for parameter in command.params}
    assert command.groups or len(command.params) <= 14, "give its options headings"
    assert not [heading for heading in command.groups if heading.startswith(("Of ", "So many "))]


def summaries(package: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "hela_store" / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if text := ast.get_docstring(node):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text.splitlines()[0]


@pytest.mark.parametrize("package", SUMMARY_PACKAGES)
def test_docstrings_begin_with_a_sentence(package: str) -> None:
    assert not [(where, line) for where, line in summaries(package) if OPENINGS.match(line) or CLAUSES.match(line)]
