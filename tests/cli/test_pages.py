"""Every shell command of the pages is run, page by page, in a folder with small data, and says what to do next."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from console import COMMAND, environment
from page_world import make_data, make_store
from pages import (
    COMMANDS,
    ELSEWHERE,
    EXAMPLES,
    SMALL,
    STANDS_FOR,
    TEXTS,
    blocks,
    command_name,
    reason,
    runs_of,
    small,
    spoken,
)

from stores import made_once

SERVERS = ("explore", "teach")
HISTORIES = ("HISTORY.md", "RESULTS.md")
LINES = {str(page): [*blocks(text), *spoken(text)] for page, text in TEXTS.items() if page.name not in HISTORIES}
LINES["cli/README.md"] += [line for _, line in EXAMPLES]
KEPT = {page: kept for page, lines in LINES.items() if (kept := [line for line in lines if not reason(line)])}
LATER = (
    "README.md",
    "cli/README.md",
    "hela_store/sam/nano.md",
    "notebooks/adapting.md",
    "notebooks/augmentation.md",
    "notebooks/clusters_and_buckets.md",
    "notebooks/finding_cells.md",
    "notebooks/how_many_cells.md",
    "notebooks/training.md",
)
"""Pages that train for minutes and are not run here yet; test_docs.py compares their commands with the options."""
LONG = tuple(f"notebooks/{name}.md" for name in ("audit", "encoders", "mend", "other_tools", "teaching"))
"""Pages whose commands take half a minute and more."""
DATA_ALONE = {
    "sql": "prints the answer of a query",
    "bench": "prints what was measured",
    "pretrain": "prints the file with the weights",
    "explore": "serves a page until Ctrl-C",
    "teach": "serves a page until Ctrl-C",
}
"""Commands, or groups of them, that end without a next step, and what they do in place of it."""
ENDS = ("Next: ", "Next, in another lab: ", "To fine-tune on your own labels: ")
WIDTH = 80


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the frames that pages name. Not to be changed."""
    return made_once(tmp_path_factory, "pages_data", make_data)


@pytest.fixture(scope="session")
def fluo(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store that most pages go on with. Not to be changed."""
    return made_once(tmp_path_factory, "pages_fluo", lambda path: make_store(data, path))


@pytest.fixture
def folder(data: Path, fluo: Path, tmp_path: Path) -> Path:
    """Return a folder in which a page's commands can be typed."""
    shutil.copytree(data, tmp_path / "here")
    shutil.copytree(fluo, tmp_path / "here/stores/fluo")
    return tmp_path / "here"


def serve(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Start a server and end it with Ctrl-C once it has printed its address."""
    with forked.Popen(
        [COMMAND, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert re.match(r"http://127\.0\.0\.1:\d+/", address), (words, address, err)
    return subprocess.CompletedProcess(words, process.returncode, address, err)


def faults(line: str, out: str) -> Iterator[str]:
    """Yield what is wrong with what a command printed: a line that is too long, or no next step at its end."""
    name = command_name(line)
    if "--json" in line or any(name == each or name.startswith(f"{each} ") for each in DATA_ALONE):
        return
    lines = out.splitlines()
    for text in lines:
        # what is copied stays whole, and a table is as wide as the names of runs make it
        is_sentence = "  " not in text.strip() and not text.startswith(("Next", "hela-store "))
        if len(text) > WIDTH and is_sentence and max(map(len, text.split())) <= WIDTH // 2:
            yield f"{len(text)} characters: {text}"
    if not lines or not lines[-1].startswith(ENDS):
        yield f"ends with {lines[-1:]}"


@pytest.mark.ci
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in KEPT if page not in LATER],
)
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    wrong = []
    for line in KEPT[page]:
        words = small(line, runs_of(folder / "stores/fluo"))
        if command_name(line) in SERVERS:
            done = serve(words, folder)
        else:
            done = forked.run([COMMAND, *words], cwd=folder, capture_output=True, text=True, env=environment())
        if done.returncode or "Traceback" in done.stderr:
            wrong.append(f"{line}: exit {done.returncode}\n{done.stderr[-1500:]}")
        else:
            wrong += [f"{line}: {fault}" for fault in faults(line, done.stdout)]
    assert not wrong, "\n".join(wrong)


def test_what_is_left_out_or_made_small_is_there() -> None:
    every = [line for lines in LINES.values() for line in lines]
    for pattern in ELSEWHERE:
        assert any(re.search(pattern, line) for line in every), pattern
    for there in STANDS_FOR:
        assert any(there in line for line in every), there
    names = [name.removeprefix("hela-store ") for name in COMMANDS]
    for name in (*SMALL, *DATA_ALONE):
        assert any(each == name or each.startswith(f"{name} ") for each in names), name


def test_a_page_that_is_not_run_is_named_for_as_long_as_it_is_there() -> None:
    assert set(LATER) < set(KEPT)
