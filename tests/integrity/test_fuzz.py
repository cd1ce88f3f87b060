"""Any file of a store is changed in any way: nothing that is printed afterwards may be another number without a word."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hela_store_cli.main import main

from hela_store.store.store import Store

CASES = 300
SHORT = 8
HOW = ("bit", "cut", "swap", "delete", "duplicate", "edit")
RUN = "finetune --prompt box --steps 2 --cells 2 --validation-cells 2 --workers 0 --window 8 --seed 7"
COMMANDS = (
    "verify",
    "sql 'SELECT kind, prompt, prompt_seed, cell, iou, dice FROM cell_metrics ORDER BY ALL'",
    "sql 'SELECT frame, label, area, diameter FROM cells ORDER BY ALL'",
    "evaluate --run TUNED --split val --prompt box --prompt-seeds 1",
    "evaluate --split val --prompt point --prompt-seeds 1",
    RUN,
)
OF_THE_RUN = ("run", "seconds", "time", "id", "path", "created")
"""Begin the names of values that differ from one run to the next."""


def numbers(value: Any, name: str = "") -> Any:
    """Return what a command printed without what differs from run to run."""
    if isinstance(value, dict):
        return {key: numbers(each, key) for key, each in value.items() if not key.startswith(OF_THE_RUN)}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return round(value, 9) if isinstance(value, float) else value


def ask(store: Path, command: str) -> tuple[int, Any, str]:
    """Run a command on a store: its status, what it printed and what it said."""
    import shlex

    done = CliRunner().invoke(main, [*shlex.split(command), "-s", str(store), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
    assert "Traceback" not in done.stderr
    try:
        return done.exit_code, numbers(json.loads(done.stdout)), done.stderr
    except json.JSONDecodeError:
        return done.exit_code, None, done.stderr


def mutate(store: Path, case: int) -> str:
    """Change one file of a store; say how."""
    rng = random.Random(case)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != "store.toml")
    files = [path for path in files if "data/" not in str(path.relative_to(store)) and path.stat().st_size]
    kinds = sorted({path.relative_to(store).parts[0] for path in files})
    kind = rng.choice(kinds)  # few files would be other than chunks
    path = rng.choice([path for path in files if path.relative_to(store).parts[0] == kind])
    how, data = rng.choice(HOW), bytearray(path.read_bytes())
    alike = [other for other in files if other.suffix == path.suffix and other.parent == path.parent and other != path]
    if how == "bit":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "edit":
        digits = [place for place, value in enumerate(data) if chr(value).isdecimal()]
        place = rng.choice(digits) if digits else rng.randrange(len(data))
        data[place] = ord("0") + (data[place] - ord("0") + 1) % 10 if digits else data[place] ^ 255
    name = str(path.relative_to(store))
    if how == "delete":
        path.unlink()
    elif how in ("swap", "duplicate"):
        if not alike:
            return mutate(store, case + 10_000)
        other = rng.choice(alike)
        if how == "swap":
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
        else:
            other.write_bytes(data)
        return f"{how} {name} {other.name}"
    else:
        path.write_bytes(data)
    return f"{how} {name}"


def silent_changes(
    scored: Path, tuned: str, expected: dict[str, Any], folder: Path, case: int
) -> tuple[str, list[str]]:
    """Return how a store was changed, and the commands that then printed other numbers without a word."""
    path = folder / "case"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(scored, path)
    what = mutate(path, case)
    silent = []
    for command in COMMANDS:
        status, found, said = ask(path, command.replace("TUNED", tuned))
        if status == 0 and not said and found != expected[command]:
            silent.append(f"{command.split()[0]}: {str(found)[:200]} instead of {str(expected[command])[:200]}")
    return what, silent


@pytest.fixture(scope="module")
def whole(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    path = shutil.copytree(scored, tmp_path_factory.mktemp("whole") / "store")
    tuned = max(run.name for run in (path / "runs").glob("2*-finetune-*"))
    Store.open(path).sql("SELECT 1")
    expected = {}
    for command in COMMANDS:
        copy = shutil.copytree(path, path.parent / "copy")
        status, expected[command], said = ask(copy, command.replace("TUNED", tuned))
        assert status == 0, said
        assert expected[command] is not None
        shutil.rmtree(copy)
    return path, tuned, expected


def report(whole: tuple[Path, str, dict[str, Any]], folder: Path, cases: range) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    failures = []
    for case in cases:
        what, silent = silent_changes(*whole, folder, case)
        counts[" ".join(what.split()[:2]).partition("/")[0]] += 1
        failures += [f"case {case}: {what}: {text}" for text in silent]
    return counts, failures


@pytest.mark.ci
def test_no_change_of_a_file_changes_a_number_in_silence(whole: Any, tmp_path: Path) -> None:
    _, failures = report(whole, tmp_path, range(SHORT))
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_change_of_a_file_changes_a_number_in_silence_at_length(
    whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, failures = report(whole, tmp_path, range(SHORT, SHORT + CASES))
    with capsys.disabled():
        print(f"\n{sum(counts.values())} changes, {len(failures)} silent: {dict(sorted(counts.items()))}")
    assert not failures, "\n".join(failures)
