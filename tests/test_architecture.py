"""The floors of the library, held by reading its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "hela_store"
CLI = ROOT / "cli"
MOST_LINES = 500

# Imports go down or stay; names ending in a dot are packages. A module in no floor fails: put it where it belongs.
FLOORS = (
    {"errors", "types"},
    {
        "augment.",
        "bootstrap",
        "boundaries",
        "cell_context",
        "cell_scores",
        "codecs",
        "ctc_measures",
        "extras",
        "failures",
        "files",
        "geometry",
        "image_free",
        "label_image",
        "mask_logits",
        "mask_prompts",
        "masks",
        "metrics",
        "normalise",
        "progress",
        "prompts",
        "random",
        "read_cache",
        "scalars",
        "sizes",
        "splits",
        "training_prompts",
        "user_prompts",
    },
    {
        "arrays",
        "bucket",
        "catalog",
        "catalog_rows",
        "lazy",
        "ledger",
        "lock",
        "recipe",
        "recipe_text",
        "run_info",
        "runs",
        "storage",
        "store",
    },
    {"datasets.", "sam.", "losses.", "training_state"},
    {
        "cluster",
        "detect.",
        "embed",
        "cards",
        "encoder_record",
        "evaluate",
        "executors",
        "faults",
        "finetune",
        "guard",
        "ingest",
        "leaks",
        "learner",
        "measure",
        "own_prompts",
        "pipeline",
        "plan",
        "predict",
        "run_faults",
        "scoring",
        "sequence_scores",
        "segment",
        "stream",
        "subset_scores",
        "tuned",
        "tuning",
        "verify",
        "view_inputs",
        "work",
    },
    {
        "baselines.",
        "bench.",
        "compare",
        "demo",
        "doctor",
        "explore.",
        "export.",
        "import_micro_sam",
        "info",
        "new",
        "other_truth",
        "pretrain.",
        "preview",
        "report.",
        "study",
        "study_rows",
        "study_text",
        "sweep",
        "watch",
    },
)


def modules(folder: Path, package: str) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


MODULES = modules(LIBRARY, "hela_store")
COMMANDS = modules(CLI, "hela_store_cli")


def floor_of(module: str) -> int:
    name = module.removeprefix("hela_store").removeprefix(".")
    if not name:
        return len(FLOORS)  # the public names, above everything
    head = name.partition(".")[0]
    for number, floor in enumerate(FLOORS):
        if name in floor or f"{head}." in floor:
            return number
    pytest.fail(f"{module} belongs to no floor; add it to FLOORS in {Path(__file__).name}")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(node: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if types or not is_type_checking(child):
            yield child
            yield from walk(child, types=types)


def imports(module: str, path: Path, *, types: bool = True) -> set[str]:
    """Return what a module imports, wherever in it; without what only annotations need where ``types`` is False."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in walk(ast.parse(path.read_text()), types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            both = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in both}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    mine = floor_of(module)
    for name in imports(module, MODULES[module], types=False) & MODULES.keys():
        assert floor_of(name) <= mine, f"{module} (floor {mine}) imports {name} (floor {floor_of(name)})"


def test_no_import_cycles() -> None:
    graph = {m: imports(m, path, types=False) & MODULES.keys() - {"hela_store"} for m, path in MODULES.items()}
    # a package's __init__ imports its modules, which may import their siblings: that is no cycle
    graph = {m: {n for n in used if not m.startswith(f"{n}.")} for m, used in graph.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"import cycle: {' -> '.join([*above[above.index(module) :], module])}"
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_library_knows_no_command_line(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(module, MODULES[module])}
    assert not roots & {"click", "rich", "tqdm", "cli", "hela_store_cli"}


def test_ultralytics_stays_in_a_process_of_its_own() -> None:
    """It is AGPL-3.0: one file uses it, which imports nothing of ours, and which nothing imports."""
    process = "hela_store.detect.yolo11_process"
    every = MODULES | COMMANDS
    for module, path in every.items():
        roots = {name.partition(".")[0] for name in imports(module, path)}
        assert ("ultralytics" in roots) == (module == process), module
        assert process not in imports(module, path), module
    assert not {name for name in imports(process, every[process]) if name.startswith("hela_store")}


@pytest.mark.parametrize("module", MODULES)
def test_library_does_not_print_or_read_the_environment(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), f"line {node.lineno}"


@pytest.mark.parametrize("path", [*MODULES.values(), *COMMANDS.values()], ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", COMMANDS)
def test_command_bodies_are_short(module: str) -> None:
    for node in ast.walk(ast.parse(COMMANDS[module].read_text())):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 22, f"{node.name} has {lines} lines"


def test_packages_are_all_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in LIBRARY.rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"hela_store_cli"}
    assert found == set(settings["packages"])
    assert settings["package-dir"] == {"hela_store_cli": "cli"}


def test_data_files_are_all_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    other = [p for p in LIBRARY.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc") and "cache" not in str(p)]
    for path in other:
        assert any(path.match(pattern) for pattern in patterns), path


def test_import_is_light() -> None:
    heavy = ("torch", "dask", "zarr", "numpy", "duckdb", "pyarrow")
    code = f"import sys, hela_store; assert not set({heavy}) & set(sys.modules); print(hela_store.Store.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Store\n"), done.stderr


def test_opening_a_store_loads_no_torch(embedded: Path) -> None:
    code = (
        "import sys, hela_store as hs; hs.Store.open(sys.argv[1]).sql('select count(*) from frames').fetchall()\n"
        "assert not {'torch', 'dask', 'zarr'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, embedded], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_functions_hide_their_modules() -> None:
    code = (
        "from hela_store.embed import EmbedConfig as module_one\n"
        "import hela_store.finetune, hela_store as hs\n"
        "assert callable(hs.embed) and callable(hs.finetune) and callable(hs.evaluate)\n"
        "assert hs.EmbedConfig is module_one\n"
        "assert all(getattr(hs, name) is not None for name in hs.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_public_name() -> None:
    import hela_store

    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        hela_store.embedd  # noqa: B018
