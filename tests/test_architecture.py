"""How the code is laid out, as far as the contracts of import-linter in ``pyproject.toml`` do not say it."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hela_store

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "hela_store"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]
MAP = (LIBRARY / "README.md").read_text()
MOST_LINES = 500
MOST_STATEMENT_LINES = 22
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 7


@functools.cache
def trees(folder: Path) -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_reads_no_environment() -> None:
    for path, tree in trees(LIBRARY).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in ("environ", "getenv"), f"{path}:{node.lineno}"


def test_modules_are_short() -> None:
    for path in [*LIBRARY.rglob("*.py"), *(ROOT / "cli").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= MOST_LINES, path


def test_functions_are_short_and_take_few_parameters() -> None:
    for path, tree in (trees(LIBRARY) | trees(ROOT / "cli")).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_FUNCTION_LINES, f"{path}: {node.name} has {lines} lines"
    for path, tree in trees(LIBRARY).items():  # click hands a command each of its options
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [part.arg for part in taken if part.arg not in ("self", "cls")]
                assert len(names) <= MOST_PARAMETERS, f"{path}: {node.name} takes {len(names)} parameters"


def test_command_bodies_are_short() -> None:
    for path, tree in trees(ROOT / "cli").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert lines <= MOST_STATEMENT_LINES, f"{path}: {node.name} has {lines} lines"


def test_the_process_of_yolo11_imports_nothing_of_ours() -> None:
    tree = ast.parse((LIBRARY / "detection/yolo11/process.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports and "hela_store" not in " ".join(map(ast.unparse, imports))
    assert not [node for node in imports if isinstance(node, ast.ImportFrom) and node.level]


def test_packages_are_all_listed() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in LIBRARY.rglob("*.py")} | {"hela_store_cli"}
    assert found == set(SETTINGS["setuptools"]["packages"])
    assert SETTINGS["setuptools"]["package-dir"] == {"hela_store_cli": "cli"}


def test_every_package_says_what_lives_there() -> None:
    for path in LIBRARY.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
    assert {path.name for path in LIBRARY.glob("*.py")} == {"__init__.py", "errors.py"}


def test_the_map_names_every_package_in_the_order_of_imports() -> None:
    rows = re.findall(r"^\| \[`([\w.]+?)(?:/|\.py)`\]", MAP, re.MULTILINE)
    layers = SETTINGS["importlinter"]["contracts"][0]["layers"]
    floor = {name: number for number, layer in enumerate(reversed(layers)) for name in layer.split(" | ")}
    assert set(rows) == {*(path.parent.name for path in LIBRARY.glob("*/__init__.py")), "errors", "cli"}
    assert rows[-1] == "cli"
    assert [floor[name] for name in rows[:-1]] == sorted(floor.values())


def test_the_map_links_files_that_exist_and_names_what_is_in_them() -> None:
    links = re.findall(r"\]\(([^)#]+)\)(?: `(\w+)`)?", MAP)
    assert len(links) > 40 and sum(bool(name) for _, name in links) > 14
    for path, name in links:
        assert (LIBRARY / path).is_file(), path
        if name:
            assert re.search(rf"\b(def|class|VIEW) {name}\b", (LIBRARY / path).read_text()), f"{path}: {name}"
    for name in re.findall(r"(\w+)(?:\.\w+)?\(\)", MAP.split("```")[1]):
        assert any(re.search(rf"\b(def|class) {name}\b", path.read_text()) for path in LIBRARY.rglob("*.py")), name


def test_data_files_are_all_shipped() -> None:
    patterns = SETTINGS["setuptools"]["package-data"]["*"]
    other = [p for p in LIBRARY.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc") and "cache" not in str(p)]
    for path in other:
        assert any(path.match(pattern) for pattern in patterns), path


def test_import_is_light() -> None:
    heavy = ("torch", "dask", "zarr", "numpy", "duckdb", "pyarrow")
    code = f"import sys, hela_store; assert not set({heavy}) & set(sys.modules); print(hela_store.Store.__name__)"
    assert python(code) == "Store\n"


def test_opening_a_store_loads_no_torch(embedded: Path) -> None:
    python(
        "import sys, hela_store as hs; hs.Store.open(sys.argv[1]).sql('select count(*) from frames').fetchall()\n"
        "assert not {'torch', 'dask', 'zarr'} & set(sys.modules)",
        embedded,
    )


PUBLIC: list[str] = vars(hela_store)["__all__"]


def test_public_names() -> None:
    """They are the only ones that are shown, each can be had, and the commands are among them."""
    assert dir(hela_store) == sorted(PUBLIC)
    assert all(getattr(hela_store, name) is not None for name in PUBLIC)
    assert {"Store", "embed", "finetune", "evaluate", "compare", "sweep", "detect", "score", "export"} <= set(PUBLIC)
    assert hela_store.__version__ == PROJECT["project"]["version"]


def test_exporters_are_named_by_their_formats() -> None:
    assert hela_store.export.coco.__name__ == "export_coco"
    assert dir(hela_store.export) == ["anndata", "checkpoint", "coco", "ctc", "micro_sam", "ome_zarr", "onnx"]
    assert all(callable(getattr(hela_store.export, name)) for name in dir(hela_store.export))
    with pytest.raises(AttributeError, match="no exporter 'cocoo'"):
        hela_store.export.cocoo  # noqa: B018


def test_unknown_public_name() -> None:
    name = "embedd"
    with pytest.raises(AttributeError, match=name):
        getattr(hela_store, name)
