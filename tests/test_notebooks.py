"""The notebooks run from top to bottom, one after the other in one folder, and are committed with their outputs."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from notebooks import NOTEBOOKS, execute, kinds

LARGEST = 400_000
BY_HAND = ("detect", "segment")
"""Commands of notebook 4 that take long; other tests run them."""


def code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_four() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed_without_paths_and_times_and_only_public_names_are_used(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    text = path.read_text()
    assert len(text) < LARGEST and not re.search(r"/(tmp|home|root|work)/|\b20\d{6}-\d{6}-|iopub", text)
    for cell in code(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("hela_store.") for name in names), names
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.ci
# the kernel's own event loop and sockets
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_they_run_and_show_what_is_committed(folder: Path) -> None:
    for path, book in zip(NOTEBOOKS, execute(folder), strict=True):
        found = kinds(book)
        again = "write them again: python tests/helpers/notebooks.py"
        assert found == kinds(json.loads(path.read_text())), f"{path.name}: {again}"
        shown = {kind for cell in found for kind in cell}
        assert "stderr" not in shown and any("image/png" in kind for kind in shown), path.name
    exports(folder)


def exports(folder: Path) -> None:
    """Run what notebook 4 prints at its end."""
    (block,) = re.findall(r"```bash\n(.*?)```", nbformat.read(NOTEBOOKS[3], as_version=4).cells[-1].source, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(lines) == 6
    for program, *words in lines:
        assert program == "hela-store"
        if words[0] not in BY_HAND:
            with contextlib.chdir(folder):
                done = CliRunner().invoke(main, words, prog_name="hela-store")
            assert done.exit_code == 0, done.output
