"""An audit from end to end on a small drawn store: interrupted, resumed, published, queried, shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner
from hela_store_cli.main import main
from label_events import make_event

from hela_store.audit.audit import audit
from hela_store.audit.blocks import audited_frames, judged_blocks
from hela_store.audit.config import AuditConfig
from hela_store.audit.result import AuditResult
from hela_store.embedding.embed import EmbedConfig, embed
from hela_store.errors import SplitError
from hela_store.labels.log import LabelLog
from hela_store.runs.folder import partial_runs
from hela_store.runs.info import LOG
from hela_store.show.explorer.answer import cards
from hela_store.show.report.build import report
from hela_store.store.store import Store
from hela_store.workflows.new import new
from hela_store.workflows.new_config import NewConfig, SyntheticConfig

T = TypeVar("T")
QUICK = AuditConfig(folds=2, steps=2, cells=2, faults=1.0, device="cpu")


@pytest.fixture(scope="module")
def audited(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AuditResult]:
    """Return a store with an audit that was interrupted once."""
    path = tmp_path_factory.mktemp("audited") / "store"
    shutil.copytree(embedded, path)

    def stopping(iterable: Iterable[T], *, total: int, what: str) -> Iterator[T]:
        if what == "judge, block 2 of 2":
            raise KeyboardInterrupt
        yield from iterable

    with pytest.raises(KeyboardInterrupt):
        audit(Store.open(path), QUICK, progress=stopping)
    left = partial_runs(path)
    assert len(left) == 1 and (path / "runs" / f".{left[0]}.partial" / "block-0.parquet").exists()
    result = audit(Store.open(path), QUICK)
    assert result.run == left[0], "the interrupted run was finished"
    return path, result


@pytest.mark.ci
def test_every_label_has_a_score_and_its_reasons(audited: tuple[Path, AuditResult]) -> None:
    path, result = audited
    store = Store.open(path)
    rows = store.sql("SELECT * FROM suspects ORDER BY rank").to_arrow_table().to_pylist()
    cells = {row[0] for row in store.sql("SELECT cell FROM cells").fetchall()}
    assert {row["cell"] for row in rows if row["cell"]} == cells and result.labels == len(cells)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    assert all(row["kind"] and row["reason"] for row in rows if row["cell"])
    assert all((row["rle"] is None) == (row["rle_height"] is None) for row in rows)
    assert result.test and any("never saw its block" in note for note in result.notes)
    assert {one.kind for one in result.recall} >= {"all", "missing", "debris", "identity"}
    files = {file.name for file in (path / "runs" / result.run).iterdir()}
    assert files == {"config.json", "manifest.json", "suspects.parquet", LOG}, "no decoder that saw test is kept"
    again = audit(store, QUICK)
    assert again.reused and replace(again, reused=False) == result


def test_no_frame_judges_itself(audited: tuple[Path, AuditResult]) -> None:
    store = Store.open(audited[0])
    frames = audited_frames(store)
    for block in judged_blocks(store, frames, 3):
        blocks = block.store.blocks()
        assert all(blocks[frame] == "test" for frame in block.frames)
        assert any(part == "train" for part in blocks.values())
    assert sorted(frame for block in judged_blocks(store, frames, 3) for frame in block.frames) == sorted(frames)


@pytest.mark.ci
def test_suspects_are_shown(audited: tuple[Path, AuditResult], tmp_path: Path) -> None:
    path, result = audited
    store = Store.open(path)
    query = "SELECT run, suspect, cell FROM suspects WHERE cell IS {} ORDER BY rank LIMIT 2"
    missing, labelled = (store.sql(query.format(kind)).to_arrow_table().to_pylist() for kind in ("NULL", "NOT NULL"))
    assert missing and labelled
    drawn = cards(store, missing + labelled)
    assert all(card is not None and card["strip"].startswith("data:image/webp") for card in drawn)
    assert cards(store, [{"run": result.run, "suspect": "nothing"}]) == [None]
    _and_as_they_were(path, labelled[-1], drawn[-1], tmp_path / "changed")
    made = report(store, out=tmp_path / "report.html")
    assert "suspects" in made.sections and "the frames before and after" in (tmp_path / "report.html").read_text()


def _and_as_they_were(path: Path, row: dict[str, str], drawn: object, copy: Path) -> None:
    """Erase a suspect: it is still drawn with the label that was judged."""
    shutil.copytree(path, copy)
    frame, _, label = row["cell"].rpartition("#")
    with LabelLog(Store.open(copy)) as log:
        log.append([make_event("erase", frame, (int(label),))])
    assert cards(Store.open(copy), [row]) == [drawn]
    report(Store.open(copy), out=copy.with_suffix(".html"))
    assert "these labels are of version 0, which was audited; the latest is 1" in copy.with_suffix(".html").read_text()


def test_the_command(audited: tuple[Path, AuditResult]) -> None:
    words = ["audit", "-s", str(audited[0]), "--folds", "2", "--steps", "2", "--faults", "1"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["run"] != audited[1].run, "it has other cells a step"
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and "Next: hela-store explore" in done.output and "injected fault" in done.output


def test_bad_input_is_one_line(embedded: Path, tmp_path: Path) -> None:
    drawn = SyntheticConfig(frames=3, shape=(96, 96), cells=4)
    blocks = {"train_frames": "0-0", "val_frames": "1-1", "test_frames": "2-2"}
    path = tmp_path / "empty"
    new(path, NewConfig.of(dataset="synthetic", tile="none", synthetic=drawn, **blocks))
    done = CliRunner().invoke(main, ["audit", "-s", str(path)])
    assert done.exit_code == 1 and done.output.count("\n") == 1 and "hela-store embed" in done.output
    store = Store.open(embedded)
    with pytest.raises(SplitError, match="one labelled and embedded frame"):
        judged_blocks(store, audited_frames(store)[:1], 4)
    bare = tmp_path / "bare"
    new(bare, NewConfig.of(dataset=str(path / "data"), labels="none", tile="none"))
    embed(Store.open(bare), EmbedConfig(limit=1))
    with pytest.raises(SplitError, match="has labels, so there is nothing to learn from"):
        audited_frames(Store.open(bare))
